#include "kernels/plugin_loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vitscale {
namespace {

std::vector<std::string> Candidates(absl::string_view file) {
  std::vector<std::string> paths;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    paths.push_back(absl::StrCat(program.parent_path().parent_path().string(), "/lib/", file));
  }
  if (const char* folder = std::getenv("VITSCALE_PLUGIN_DIR"); folder != nullptr && *folder != 0) {
    paths.push_back(absl::StrCat(folder, "/", file));
  }
  return paths;
}

}  // namespace

absl::StatusOr<const PluginApi*> LoadPluginAt(const std::string& path) {
  // LOCAL: what the plugin brings must not answer for symbols of the program.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("plugin ", path, ": ", dlerror()));
  }
  const auto entry = reinterpret_cast<PluginEntry>(dlsym(library, kPluginEntry));
  if (entry == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("plugin ", path, ": has no ", kPluginEntry, ", want a plugin of vitscale"));
  }
  const PluginApi* api = entry();
  const std::string want = PluginTag(VITSCALE_REVISION, VITSCALE_INTERFACE);
  if (api->tag != want) {
    return absl::FailedPreconditionError(
        absl::StrCat("plugin ", path, ": is of another build (", api->tag, "), want ", want));
  }
  return api;
}

absl::StatusOr<const PluginApi*> LoadPlugin(absl::string_view file) {
  const std::vector<std::string> paths = Candidates(file);
  for (const std::string& path : paths) {
    if (access(path.c_str(), R_OK) == 0) return LoadPluginAt(path);
  }
  return absl::FailedPreconditionError(
      absl::StrCat("plugin ", file, ": not found; looked for ", absl::StrJoin(paths, ", "),
                   paths.size() < 2 ? " (VITSCALE_PLUGIN_DIR would name another folder)" : ""));
}

}  // namespace vitscale
