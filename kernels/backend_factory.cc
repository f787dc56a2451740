#include "kernels/backend_factory.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cpu/cpu_backend.h"

namespace vitscale {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "cpu") return cpu::CreateCpuBackend(options);
  if (absl::StartsWith(options.device, "cuda:")) {
    return absl::UnimplementedError(
        absl::StrCat("device is ", options.device, ", want cpu: this build has no CUDA backend"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device is '", options.device, "', want cpu or cuda:<index>"));
}

BackendInfo DescribeCpu(const BackendOptions& options) { return cpu::DescribeCpuBackend(options); }

}  // namespace vitscale
