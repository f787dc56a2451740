#include "kernels/cuda/cudnn/cudnn_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {
namespace {

std::string VersionText(size_t code) {
  return absl::StrCat(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

template <typename Function>
absl::Status Find(void* library, const std::string& file, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "cuDNN: ", file, " has no ", name, ", want cuDNN ", VersionText(kCudnnLeast), " or later"));
}

}  // namespace

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
  if (library.GetVersion() >= kCudnnLeast) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("cuDNN is ", library.version(), ", want ",
                                                    VersionText(kCudnnLeast), " or later"));
}

absl::StatusOr<CudnnLibrary> LoadCudnn(const std::string& file) {
  void* opened = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("cuDNN cannot be opened: ", dlerror()));
  }
  CudnnLibrary library;
#define VITSCALE_CUDNN_FIND(name) \
  VITSCALE_RETURN_IF_ERROR(Find(opened, file, "cudnn" #name, library.name));
  VITSCALE_CUDNN_FUNCTIONS(VITSCALE_CUDNN_FIND)
#undef VITSCALE_CUDNN_FIND
  VITSCALE_RETURN_IF_ERROR(CheckCudnnVersion(library));
  return library;
}

}  // namespace vitscale::cuda
