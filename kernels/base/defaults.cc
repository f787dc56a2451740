#include "kernels/base/defaults.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "kernels/base/path.h"

namespace vitscale {
namespace {

// The XDG base directory specification: a relative or empty value counts as unset.
std::string AbsoluteEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] == '/' ? value : "";
}

}  // namespace

std::string DefaultRuntimeDirectory() {
  const std::string runtime = AbsoluteEnvironment("XDG_RUNTIME_DIR");
  if (!runtime.empty()) return JoinPath(runtime, "vitscale");
  if (geteuid() == 0) return "/run/vitscale";
  return absl::StrCat("/tmp/vitscale-", geteuid());
}

std::string DefaultSocketPath() { return JoinPath(DefaultRuntimeDirectory(), "vitscaled.sock"); }

std::string DefaultLockDirectory() { return JoinPath(DefaultRuntimeDirectory(), "locks"); }

std::string DefaultStateDirectory() {
  const std::string state = AbsoluteEnvironment("XDG_STATE_HOME");
  if (!state.empty()) return JoinPath(state, "vitscale");
  if (geteuid() == 0) return "/var/lib/vitscale";
  const std::string home = AbsoluteEnvironment("HOME");
  if (!home.empty()) return JoinPath(home, ".local/state/vitscale");
  return JoinPath(DefaultRuntimeDirectory(), "state");
}

}  // namespace vitscale
