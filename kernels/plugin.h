// Between a program and what lives in a plugin of its own: a backend, and the communicators of its
// devices. Both are compiled from the same headers; the tag says whether they were.
//
// C++ objects cross this border, so program and plugin must come from one build: nothing is
// promised between versions. Errors cross it as absl::Status; exceptions never.

#ifndef KERNELS_PLUGIN_H_
#define KERNELS_PLUGIN_H_

#include <memory>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/backend_factory.h"
#include "kernels/communicator.h"

namespace vitscale {

inline constexpr char kCudaPluginFile[] = "libvitscale_cuda.so";
// extern "C" const PluginApi* vitscale_plugin(): never null, lives as long as the process.
inline constexpr char kPluginEntry[] = "vitscale_plugin";

struct PluginApi {
  const char* tag = nullptr;  // first, so that it can be read from any other build
  absl::StatusOr<std::unique_ptr<Backend>> (*create_backend)(const BackendOptions& options) =
      nullptr;
  absl::StatusOr<std::unique_ptr<Communicator>> (*create_communicator)(
      const CommunicatorOptions& options) = nullptr;
};
using PluginEntry = const PluginApi* (*)();

template <typename... Args>
std::string SizesOf(const std::variant<Args...>*) {
  size_t sum = 0;
  ((sum = sum * 31 + sizeof(Args)), ...);
  return absl::StrCat(absl::Hex(sum));
}

// "revision 1a2b3c, interface 9f8e7d, compiler 12.2.0, structs 8c1f": `revision` and `interface`
// (a hash of the headers that both see) are given by the build of whoever asks.
inline std::string PluginTag(const char* revision, const char* interface_hash) {
  return absl::StrCat("revision ", revision, ", interface ", interface_hash, ", compiler ",
                      __VERSION__, ", structs ", SizesOf(static_cast<const Op*>(nullptr)), ".",
                      sizeof(BackendOptions), ".", sizeof(BackendInfo), ".", sizeof(StepScalars),
                      ".", sizeof(CommunicatorOptions));
}

}  // namespace vitscale

#endif  // KERNELS_PLUGIN_H_
