#include "worker/data/sample_order.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/permutation.h"
#include "kernels/base/status.h"

namespace vitscale {

absl::StatusOr<SampleOrder> SampleOrder::Create(uint64_t seed, int64_t size, int64_t batch_global) {
  if (batch_global < 1 || batch_global > size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "batch.global is ", batch_global, ", want 1 to the number of training images, ", size));
  }
  return SampleOrder(seed, size, batch_global);
}

SamplePlace SampleOrder::At(int64_t step, int64_t position) const {
  VITSCALE_CHECK(step >= 0) << "step " << step;
  VITSCALE_CHECK(position >= 0 && position < batch_global_)
      << "place " << position << " of a batch of " << batch_global_;
  const int64_t epoch = step / steps_per_epoch();
  const int64_t place = step % steps_per_epoch() * batch_global_ + position;
  const KeyedPermutation permutation(seed_, epoch, size_);  // two Philox blocks: cheap
  return {epoch, static_cast<int64_t>(permutation.At(place))};
}

}  // namespace vitscale
