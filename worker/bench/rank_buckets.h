// The buckets that a rank of a benchmark sums: gradients in an arena of its device, as in training.

#ifndef WORKER_BENCH_RANK_BUCKETS_H_
#define WORKER_BENCH_RANK_BUCKETS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend_factory.h"

namespace vitscale {

class RankBuckets {
 public:
  // `sizes`: f32 values of each bucket. `device` as BackendOptions. Errors: as CreateBackend and
  // Backend::Allocate.
  static absl::StatusOr<RankBuckets> Create(const std::string& device,
                                            const std::vector<int64_t>& sizes);

  size_t size() const { return buckets_.size(); }
  // For Collective::Start; on a card an address that is not for the host to touch.
  absl::Span<float> operator[](size_t bucket) const;
  std::string device_name() const { return backend_->info().device; }

  // The values lie there when it returns.
  absl::Status Fill(float value);
  // INTERNAL: "a value is 3, want 6".
  absl::Status ExpectAll(float value) const;

 private:
  struct Bucket {
    int64_t offset = 0;  // bytes
    int64_t size = 0;    // f32 values
  };
  // Some neighbouring values of a bucket, few enough to lie beside it.
  struct Piece {
    TensorView view;
    absl::Span<float> host;
  };
  RankBuckets() = default;
  template <typename Do>
  absl::Status ForEachPiece(const Do& action) const;

  std::unique_ptr<Backend> backend_;
  std::vector<Bucket> buckets_;
};

}  // namespace vitscale

#endif  // WORKER_BENCH_RANK_BUCKETS_H_
