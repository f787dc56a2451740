#include "kernels/cuda/nccl/nccl_library.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/runtime/opened_library.h"

namespace vitscale::cuda {
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
  switch (result) {
    case ncclRemoteError:
    case ncclSystemError:
      return absl::UnavailableError(text);
    case ncclInvalidUsage:
      return absl::InvalidArgumentError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::Status CheckNcclVersion(const NcclLibrary& library) {
  int code = 0;
  VITSCALE_RETURN_IF_ERROR(library.ToStatus(library.GetVersion(&code), "version", nullptr));
  return CheckVersion("NCCL", code, kNcclLeast);
}

absl::StatusOr<NcclLibrary> LoadNccl(const std::string& file) {
  absl::StatusOr<OpenedLibrary> opened = OpenedLibrary::Open("NCCL", file, kNcclLeast);
  VITSCALE_RETURN_IF_ERROR(Annotate(opened.status(), "sums between GPUs"));
  NcclLibrary library;
#define VITSCALE_NCCL_FIND(name) VITSCALE_RETURN_IF_ERROR(opened->Find("nccl" #name, library.name));
  VITSCALE_NCCL_FUNCTIONS(VITSCALE_NCCL_FIND)
#undef VITSCALE_NCCL_FIND
  VITSCALE_RETURN_IF_ERROR(CheckNcclVersion(library));
  return library;
}

}  // namespace vitscale::cuda
