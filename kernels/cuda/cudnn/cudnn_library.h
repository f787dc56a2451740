// cuDNN as it is found when attention is first prepared. The plugin does not link it: our own
// attention does everything, so a machine without cuDNN loses nothing but a variant.

#ifndef KERNELS_CUDA_CUDNN_CUDNN_LIBRARY_H_
#define KERNELS_CUDA_CUDNN_CUDNN_LIBRARY_H_

#include <cudnn_graph.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale::cuda {

inline constexpr char kCudnnFile[] = "libcudnn.so.9";
// The first one with attention as one operation of the graph API.
inline constexpr size_t kCudnnLeast = 91300;

// The functions in use, under their names in cudnn_graph.h without the prefix.
#define VITSCALE_CUDNN_FUNCTIONS(Use)                                                  \
  Use(GetVersion) Use(GetErrorString) Use(GetLastErrorString) Use(Create) Use(Destroy) \
      Use(SetStream) Use(BackendCreateDescriptor) Use(BackendDestroyDescriptor)        \
          Use(BackendSetAttribute) Use(BackendGetAttribute) Use(BackendFinalize)       \
              Use(BackendExecute)

struct CudnnLibrary {
#define VITSCALE_CUDNN_MEMBER(name) decltype(&cudnn##name) name = nullptr;
  VITSCALE_CUDNN_FUNCTIONS(VITSCALE_CUDNN_MEMBER)
#undef VITSCALE_CUDNN_MEMBER

  std::string version() const;  // "9.19.0"
  // INTERNAL: "finalize the graph: CUDNN_STATUS_BAD_PARAM (cuDNN: last error)", in one line.
  absl::Status ToStatus(cudnnStatus_t status, absl::string_view what) const;
};

// Opened and never closed. FAILED_PRECONDITION: not there (with the loader's words), without one of
// the functions, or too old.
absl::StatusOr<CudnnLibrary> LoadCudnn(const std::string& file = kCudnnFile);

// FAILED_PRECONDITION: "cuDNN is 9.1.0, want 9.13.0 or later".
absl::Status CheckCudnnVersion(const CudnnLibrary& library);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_CUDNN_CUDNN_LIBRARY_H_
