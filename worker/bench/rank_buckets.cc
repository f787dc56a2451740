#include "worker/bench/rank_buckets.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/tensor.h"

namespace vitscale {
namespace {

constexpr int64_t kPieceValues = 64 << 10;

absl::Span<std::byte> BytesOf(absl::Span<float> values) {
  return {reinterpret_cast<std::byte*>(values.data()), values.size() * sizeof(float)};
}

}  // namespace

absl::StatusOr<RankBuckets> RankBuckets::Create(const std::string& device,
                                                const std::vector<int64_t>& sizes) {
  RankBuckets made;
  BackendOptions options;
  options.device = device;
  options.threads = 1;
  VITSCALE_ASSIGN_OR_RETURN(made.backend_, CreateBackend(options));
  int64_t bytes = 0;
  for (const int64_t size : sizes) {
    made.buckets_.push_back({bytes, size});
    bytes += AlignUp(size * static_cast<int64_t>(sizeof(float)));
  }
  ArenaBytes arenas{};
  arenas[static_cast<int>(Arena::kGradients)] = bytes;
  VITSCALE_RETURN_IF_ERROR(made.backend_->Allocate(arenas));
  return made;
}

absl::Span<float> RankBuckets::operator[](size_t bucket) const {
  absl::Span<std::byte> arena = backend_->DeviceBytes(Arena::kGradients);
  if (arena.empty()) arena = backend_->HostBytes(Arena::kGradients);
  return {reinterpret_cast<float*>(arena.data() + buckets_[bucket].offset),
          static_cast<size_t>(buckets_[bucket].size)};
}

template <typename Do>
absl::Status RankBuckets::ForEachPiece(const Do& action) const {
  std::vector<float> host(kPieceValues);
  for (const Bucket& bucket : buckets_) {
    for (int64_t at = 0; at < bucket.size; at += kPieceValues) {
      const int64_t count = std::min(kPieceValues, bucket.size - at);
      const int64_t offset = bucket.offset + at * static_cast<int64_t>(sizeof(float));
      VITSCALE_RETURN_IF_ERROR(
          action({{"gradients", Arena::kGradients, offset, DType::kF32, {count}},
                  absl::MakeSpan(host.data(), static_cast<size_t>(count))}));
    }
  }
  return absl::OkStatus();
}

absl::Status RankBuckets::Fill(float value) {
  VITSCALE_RETURN_IF_ERROR(ForEachPiece([&](const Piece& piece) {
    std::fill(piece.host.begin(), piece.host.end(), value);
    return backend_->Write(piece.view, BytesOf(piece.host));
  }));
  return ExpectAll(value);  // it also waits: sums run on another stream of a card than copies
}

absl::Status RankBuckets::ExpectAll(float value) const {
  return ForEachPiece([&](const Piece& piece) -> absl::Status {
    VITSCALE_RETURN_IF_ERROR(backend_->Read(piece.view, BytesOf(piece.host)));
    for (const float found : piece.host) {
      if (found == value) continue;  // NaN does not
      return absl::InternalError(absl::StrCat("a value is ", found, ", want ", value));
    }
    return absl::OkStatus();
  });
}

}  // namespace vitscale
