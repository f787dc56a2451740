// Two implementations of attention forward side by side on the device, on random data of the real
// shape: do they agree, and how long does each take?
//
// The data: q, k and v uniform in [-2, 2), seven different images in turn, so that a wrong stride
// of the batch does not go unnoticed. Outputs are NaN before each run, so that what is not written
// does not either.

#ifndef KERNELS_CUDA_CUDNN_ATTENTION_TRIAL_H_
#define KERNELS_CUDA_CUDNN_ATTENTION_TRIAL_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/cudnn/attention_operands.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/cuda/runtime/stream.h"

namespace vitscale::cuda {

// How far two right implementations can be apart on that data: twice what one may be off by.
//
// A score is a sum of head_dim products in f32, in any order. Weights are off by exp(2 score
// errors), are rounded to bf16 (half an ulp is 2^-8), and are summed in f32 over the tokens; the
// output is rounded to bf16 once. log_sum_exp is off by a score's error and by 2^-22 for each
// exponential and for its last rounding.
struct AttentionBounds {
  double out_absolute = 0, out_relative = 0;
  double log_sum_exp_absolute = 0, log_sum_exp_relative = 0;
};
AttentionBounds BoundsOfAttention(const AttentionSize& size);

class AttentionTrial {
 public:
  // Allocates operands and twice `l2_bytes`; RESOURCE_EXHAUSTED where there is no room.
  static absl::StatusOr<AttentionTrial> Create(const AttentionSize& size, int64_t l2_bytes);

  // Runs both once. Empty if they agree on up to 16 images spread over the batch, else "out of
  // image 3, token 5, column 17 is 0.5, by our own 0.25, want within 0.01". NaN agrees with
  // nothing.
  absl::StatusOr<std::string> Disagreement(const AttentionForward& own,
                                           const AttentionForward& other);
  // Median of five runs, each with a cold L2 cache.
  absl::StatusOr<double> MedianSeconds(const AttentionForward& forward);

 private:
  struct Results {  // of the images that are compared, one behind the other
    std::vector<uint16_t> out;
    std::vector<float> log_sum_exp;
  };
  AttentionTrial(const AttentionSize& size, CudaStream stream)
      : size_(size), stream_(std::move(stream)) {}
  AttentionOperands operands() const;
  absl::Status FillInput();
  absl::StatusOr<Results> RunOnce(const AttentionForward& forward);
  std::string FirstDifference(const Results& own, const Results& other) const;

  AttentionSize size_;
  CudaStream stream_;
  DeviceMemory qkv_, out_, log_sum_exp_, flush_;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_CUDNN_ATTENTION_TRIAL_H_
