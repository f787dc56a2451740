// The compute copies of matmul weights and biases: every Linear and LinearGradInput asks for them
// when it is prepared; PrepareWeights makes them anew from the f32 parameters. They belong to the
// backend, so that a program that updates parameters and another that uses them share them.
//
// A copy is [in, out] of all parts side by side, bf16 or f32; behind padded logits rows of it are
// padded alike, with zeros, and so is its bias. An f32 weight in one part without padding is its
// own copy. A bias in the dtype of a matmul's output is copied with its weight. A copy that was
// never made is made before the next run.

#ifndef KERNELS_CUDA_DEVICE_WEIGHTS_H_
#define KERNELS_CUDA_DEVICE_WEIGHTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/host_staging.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/cuda/runtime/stream.h"
#include "kernels/ops.h"

namespace vitscale::cuda {

// Weight parts bound to memory.
struct WeightSource {
  std::vector<const float*> parts;  // [rows, widths[i]] each
  std::vector<int64_t> widths;
  int64_t rows = 0;
  int64_t width() const;
  bool operator<(const WeightSource& other) const;
};

// One part's way into a copy, as the kernel sees it.
struct PartCopy {
  const float* from;  // [rows, width]
  void* to;           // the part's first element in the copy; bf16 or f32
  int64_t elements;   // rows * width
  int64_t width;
  int64_t to_stride;   // elements from row to row of the copy
  int64_t first_tile;  // tiles of kTileElements of `from`, numbered through the whole table
  bool bf16;
};

// Parts on the device, and for each tile the index of its part.
class CopyTable {
 public:
  absl::Status Fill(const std::vector<PartCopy>& parts, HostStaging& staging,
                    const CudaStream& stream);
  absl::Status Launch(cudaStream_t stream) const;
  bool empty() const { return tiles_ == 0; }

 private:
  DeviceMemory parts_, part_of_tile_;
  int64_t tiles_ = 0;
};

class DeviceWeights {
 public:
  // Both stay where they are as long as the backend lives. `columns`: of the copy, padding
  // included.
  absl::StatusOr<const void*> Weight(const WeightParts& weight, DType dtype, int64_t columns,
                                     const CudaOpBuilder& builder);
  absl::StatusOr<const void*> Bias(const WeightParts& bias, const WeightParts& weight, DType dtype,
                                   int64_t columns, const CudaOpBuilder& builder);

  // A table of all copies of `weights`, those asked for later included.
  std::shared_ptr<const CopyTable> TableOf(const std::vector<WeightParts>& weights,
                                           const CudaOpBuilder& builder);

  // After a program was bound: brings the tables up to date.
  absl::Status FinishPrepare(HostStaging& staging, const CudaStream& stream);
  // Makes the copies that were never made.
  absl::Status MakeNew(const RunContext& context);

  int64_t bytes() const;  // of all copies

 private:
  struct Copy {
    WeightSource source;
    DType dtype;
    int64_t columns;
    DeviceMemory memory;
    bool made = false;
  };
  struct Table {
    std::vector<WeightSource> weights;
    std::weak_ptr<CopyTable> table;
  };

  absl::StatusOr<const void*> Get(const WeightSource& weight, const WeightSource& source,
                                  DType dtype, int64_t columns);
  absl::Status ClearNew(const CudaStream& stream);
  template <typename Chosen>
  std::vector<PartCopy> PartsOf(const std::vector<WeightSource>& weights, const Chosen& chosen);

  std::map<WeightSource, std::vector<std::unique_ptr<Copy>>> copies_;  // by weight; with its biases
  std::vector<Table> tables_;
  CopyTable never_made_;
  bool changed_ = false;  // since FinishPrepare
  bool any_new_ = false;  // copies that were never made: those of never_made_
};

// FAILED_PRECONDITION where this build has no kernels for the device.
absl::Status CheckKernelsFit(const Device& device);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DEVICE_WEIGHTS_H_
