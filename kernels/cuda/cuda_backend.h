// One CUDA device as a Backend. See kernels/backend.h for the contract; programs reach it through
// the plugin (plugin_entry.cc), tests directly.
//
// Run puts a whole program into one stream and returns when the device has finished. Markers are
// told when the device has come to them, which is noticed between launches and at the end, so the
// host never holds the device up. Nothing is allocated after Prepare.

#ifndef KERNELS_CUDA_CUDA_BACKEND_H_
#define KERNELS_CUDA_CUDA_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/backend_factory.h"

namespace vitscale::cuda {

// `options.device` is "cuda:<index>". FAILED_PRECONDITION: "no CUDA device: …".
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_CUDA_BACKEND_H_
