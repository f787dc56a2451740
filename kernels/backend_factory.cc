#include "kernels/backend_factory.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/communicator.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/plugin_loader.h"

namespace vitscale {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "cpu") return cpu::CreateCpuBackend(options);
  if (absl::StartsWith(options.device, "cuda:")) {
    const absl::StatusOr<const PluginApi*> plugin = LoadPlugin(kCudaPluginFile);
    if (!plugin.ok()) return Annotate(plugin.status(), options.device);
    return (*plugin)->create_backend(options);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device is '", options.device, "', want cpu or cuda:<index>"));
}

absl::StatusOr<std::unique_ptr<Communicator>> CreateCommunicator(
    const CommunicatorOptions& options) {
  if (!absl::StartsWith(options.device, "cuda:")) {
    return absl::InvalidArgumentError(absl::StrCat("a communicator between devices: device is '",
                                                   options.device, "', want cuda:<index>"));
  }
  const absl::StatusOr<const PluginApi*> plugin = LoadPlugin(kCudaPluginFile);
  if (!plugin.ok()) return Annotate(plugin.status(), options.device);
  return (*plugin)->create_communicator(options);
}

BackendInfo DescribeCpu(const BackendOptions& options) { return cpu::DescribeCpuBackend(options); }

}  // namespace vitscale
