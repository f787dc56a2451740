#include "kernels/cuda/nccl/nccl_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {
namespace {

std::string VersionText(int code) {
  return absl::StrCat(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

template <typename Function>
absl::Status Find(void* library, const std::string& file, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "NCCL: ", file, " has no ", name, ", want NCCL ", VersionText(kNcclLeast), " or later"));
}

}  // namespace

std::string NcclLibrary::version() const {
  int code = 0;
  (void)GetVersion(&code);
  return VersionText(code);
}

absl::Status NcclLibrary::ToStatus(ncclResult_t result, absl::string_view what,
                                   ncclComm_t comm) const {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const char* last = GetLastError(comm);
  const std::string text =
      absl::StrCat(what, ": ", GetErrorString(result),
                   last != nullptr && *last != 0 ? absl::StrCat(" (NCCL: ", last, ")") : "");
  return result == ncclRemoteError || result == ncclSystemError ? absl::UnavailableError(text)
                                                                : absl::InternalError(text);
}

absl::Status CheckNcclVersion(const NcclLibrary& library) {
  int code = 0;
  VITSCALE_RETURN_IF_ERROR(library.ToStatus(library.GetVersion(&code), "version", nullptr));
  if (code >= kNcclLeast) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("NCCL is ", VersionText(code), ", want ", VersionText(kNcclLeast), " or later"));
}

absl::StatusOr<NcclLibrary> LoadNccl(const std::string& file) {
  void* opened = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("NCCL, which several GPUs need, cannot be opened: ", dlerror()));
  }
  NcclLibrary library;
#define VITSCALE_NCCL_FIND(name) \
  VITSCALE_RETURN_IF_ERROR(Find(opened, file, "nccl" #name, library.name));
  VITSCALE_NCCL_FUNCTIONS(VITSCALE_NCCL_FIND)
#undef VITSCALE_NCCL_FIND
  VITSCALE_RETURN_IF_ERROR(CheckNcclVersion(library));
  return library;
}

}  // namespace vitscale::cuda
