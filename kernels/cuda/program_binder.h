// Turns a program into ops bound to a device: operands into addresses, and everything the ops
// reserve into one piece of device memory.

#ifndef KERNELS_CUDA_PROGRAM_BINDER_H_
#define KERNELS_CUDA_PROGRAM_BINDER_H_

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/device_weights.h"
#include "kernels/cuda/host_staging.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/cuda/runtime/stream.h"

namespace vitscale::cuda {

using Arenas = std::array<DeviceMemory, kArenaCount>;

// An op, or a marker and the event that says when the device has come to it.
struct CudaStep {
  std::string name;  // "op 12 Linear"
  std::unique_ptr<CudaOp> op;
  Op marker;
  std::optional<CudaEvent> reached;
};

// May be destroyed by a thread that uses another device.
class CudaProgram : public PreparedProgram {
 public:
  explicit CudaProgram(Device device) : device_(std::move(device)) {}
  ~CudaProgram() override { (void)UseDevice(device_); }
  std::vector<std::string> variants() const override;
  uint64_t choices() const override { return chosen; }

  std::vector<CudaStep> steps;
  DeviceMemory workspace;  // what ops reserved | scratch of all
  uint64_t chosen = 0;     // choices()

 private:
  const Device device_;
};

// What programs of one backend share.
struct BinderResources {
  const Device& device;
  const Arenas& arenas;
  const CudaStream& stream;
  HostStaging& staging;
  DeviceWeights& weights;
  Blas& blas;
};

absl::StatusOr<std::unique_ptr<CudaProgram>> BindProgram(const Program& program,
                                                         const BinderResources& resources);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_PROGRAM_BINDER_H_
