// Opens plugins. Only backend_factory.cc includes it.

#ifndef KERNELS_PLUGIN_LOADER_H_
#define KERNELS_PLUGIN_LOADER_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/plugin.h"

namespace vitscale {

// The plugin `file`: in ../lib beside this executable, else in the folder that the environment's
// VITSCALE_PLUGIN_DIR names. Opened once and never closed: a driver does not survive being
// unloaded. FAILED_PRECONDITION in one line: not found, not loadable (with the loader's words), or
// of another build (with both tags).
absl::StatusOr<const PluginApi*> LoadPlugin(absl::string_view file);

// The same for one path; nothing is looked up.
absl::StatusOr<const PluginApi*> LoadPluginAt(const std::string& path);

}  // namespace vitscale

#endif  // KERNELS_PLUGIN_LOADER_H_
