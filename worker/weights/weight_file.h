// A file of named tensors from elsewhere, whatever its container: .npz (a zip of .npy files) or
// safetensors. Numbers come as f32; bf16 is widened, which is exact.

#ifndef WORKER_WEIGHTS_WEIGHT_FILE_H_
#define WORKER_WEIGHTS_WEIGHT_FILE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/base/files.h"
#include "kernels/tensor.h"

namespace vitscale {

// Called now and then; bytes.
using Progress = std::function<void(int64_t done, int64_t total)>;

struct WeightTensor {
  std::string name;
  DType dtype = DType::kF32;  // kF32 or kBf16; of no meaning with a fault
  Shape shape;
  std::string fault;  // why its numbers cannot be read ("has dtype '>f4' (big-endian), want …")
};

class WeightFile {
 public:
  virtual ~WeightFile() = default;

  // In the order of the file; every name once.
  virtual const std::vector<WeightTensor>& tensors() const = 0;

  // Reads the tensors with `wanted[i]` (none of them has a fault) from front to back and gives each
  // to `take`; the span lives as long as the call. DATA_LOSS for a checksum that does not match
  // (zip) or data that end early.
  using Take = std::function<void(size_t index, absl::Span<const float> values)>;
  virtual absl::Status Read(const std::vector<bool>& wanted, const Take& take,
                            const Progress& progress) = 0;
};

// By its first bytes: a zip is .npz, else safetensors. Reads headers only. Errors: DATA_LOSS for a
// damaged file, a tensor twice, an entry that is no .npy; RESOURCE_EXHAUSTED for a zip that claims
// more than 16 times its own size (and more than 256 MiB); those of opening.
absl::StatusOr<std::unique_ptr<WeightFile>> OpenWeightFile(FileSystem& fs, const std::string& path);

// Raw bytes of `dtype` (kF32 or kBf16) as f32. The sizes fit.
void WidenToF32(DType dtype, absl::Span<const std::byte> bytes, absl::Span<float> values);

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_WEIGHT_FILE_H_
