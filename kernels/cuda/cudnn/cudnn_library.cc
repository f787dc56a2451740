#include "kernels/cuda/cudnn/cudnn_library.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/runtime/opened_library.h"

namespace vitscale::cuda {
std::string CudnnLibrary::version() const { return VersionText(GetVersion()); }

absl::Status CudnnLibrary::ToStatus(cudnnStatus_t status, absl::string_view what) const {
  if (status == CUDNN_STATUS_SUCCESS) return absl::OkStatus();
  std::array<char, 512> last{};
  GetLastErrorString(last.data(), last.size() - 1);
  std::replace(last.begin(), last.end(), '\n', ' ');
  return absl::InternalError(
      absl::StrCat(what, ": ", GetErrorString(status),
                   last[0] != 0 ? absl::StrCat(" (cuDNN: ", last.data(), ")") : ""));
}

absl::Status CheckCudnnVersion(const CudnnLibrary& library) {
  return CheckVersion("cuDNN", library.GetVersion(), kCudnnLeast);
}

absl::StatusOr<CudnnLibrary> LoadCudnn(const std::string& file) {
  VITSCALE_ASSIGN_OR_RETURN(const OpenedLibrary opened,
                            OpenedLibrary::Open("cuDNN", file, kCudnnLeast));
  CudnnLibrary library;
#define VITSCALE_CUDNN_FIND(name) \
  VITSCALE_RETURN_IF_ERROR(opened.Find("cudnn" #name, library.name));
  VITSCALE_CUDNN_FUNCTIONS(VITSCALE_CUDNN_FIND)
#undef VITSCALE_CUDNN_FIND
  VITSCALE_RETURN_IF_ERROR(CheckCudnnVersion(library));
  return library;
}

}  // namespace vitscale::cuda
