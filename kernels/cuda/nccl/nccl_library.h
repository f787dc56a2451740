// NCCL as it is found when a communicator is asked for. The plugin does not link it: a machine with
// one GPU needs no NCCL, and where it is missing that is an error of the job that wants it, in one
// line, not of every program that opens the plugin.

#ifndef KERNELS_CUDA_NCCL_NCCL_LIBRARY_H_
#define KERNELS_CUDA_NCCL_NCCL_LIBRARY_H_

#include <nccl.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale::cuda {

inline constexpr char kNcclFile[] = "libnccl.so.2";
// Aborts before this one can hang in other ways than ours to mend.
inline constexpr int kNcclLeast = NCCL_VERSION(2, 25, 0);

// The functions in use, under their names in nccl.h without the prefix.
#define VITSCALE_NCCL_FUNCTIONS(Use)                                                             \
  Use(GetVersion) Use(GetErrorString) Use(GetLastError) Use(GetUniqueId) Use(CommInitRankConfig) \
      Use(CommGetAsyncError) Use(CommAbort) Use(AllReduce) Use(AllGather)

struct NcclLibrary {
#define VITSCALE_NCCL_MEMBER(name) decltype(&nccl##name) name = nullptr;
  VITSCALE_NCCL_FUNCTIONS(VITSCALE_NCCL_MEMBER)
#undef VITSCALE_NCCL_MEMBER

  std::string version() const;  // "2.28.9"
  // OK also for what is in progress. "all-reduce: remote process exited … (NCCL: last error)".
  // UNAVAILABLE for what a lost peer causes, INVALID_ARGUMENT for ranks that ask for what does not
  // go together (two on one device, sums of different sizes), else INTERNAL. `comm` may be null.
  absl::Status ToStatus(ncclResult_t result, absl::string_view what, ncclComm_t comm) const;
};

// Opened once and never closed: it has threads of its own. FAILED_PRECONDITION: not there (with the
// loader's words), without one of the functions, or too old.
absl::StatusOr<NcclLibrary> LoadNccl(const std::string& file = kNcclFile);

// FAILED_PRECONDITION: "NCCL is 2.19.3, want 2.25.0 or later".
absl::Status CheckNcclVersion(const NcclLibrary& library);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_NCCL_NCCL_LIBRARY_H_
