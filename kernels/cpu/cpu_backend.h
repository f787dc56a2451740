// The CPU backend behind kernels/backend_factory.h; only the factory and this folder include it.

#ifndef KERNELS_CPU_CPU_BACKEND_H_
#define KERNELS_CPU_CPU_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/backend_factory.h"

namespace vitscale::cpu {

// INVALID_ARGUMENT: threads below 0 or above 1024; an instruction set that is unknown or that this
// machine lacks.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options);

BackendInfo DescribeCpuBackend(const BackendOptions& options);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_CPU_BACKEND_H_
