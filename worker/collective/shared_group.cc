#include "worker/collective/shared_group.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/collective/shared_region.h"
#include "worker/collective/streamed.h"
#include "worker/collective/sum_in_order.h"

namespace vitscale {
namespace {

constexpr int kSumLag = 2;  // see the header
constexpr int kTakeLag = 2;
static_assert(kSharedDepth >= 2 + 2 * kSumLag + kTakeLag);
constexpr int64_t kLineFloats = 16;  // of a cache line

int64_t ChunksOf(int64_t bytes, int64_t chunk_bytes) {
  return std::max<int64_t>(1, (bytes + chunk_bytes - 1) / chunk_bytes);
}

// The part of `count` floats that `rank` sums: whole cache lines, but for the last.
struct Part {
  int64_t begin, end;
  int64_t bytes() const { return (end - begin) * static_cast<int64_t>(sizeof(float)); }
};
Part PartOf(int64_t count, int rank, int world_size) {
  const int64_t lines = (count + kLineFloats - 1) / kLineFloats;
  const auto cut = [&](int r) { return std::min(count, lines * r / world_size * kLineFloats); };
  return {cut(rank), cut(rank + 1)};
}

}  // namespace

absl::Status SharedGroup::Run(uint32_t tag, int64_t chunks, const Steps& steps) {
  const auto in_range = [chunks](int64_t chunk) { return chunk >= 0 && chunk < chunks; };
  for (int64_t turn = 0; turn < chunks + kSumLag + kTakeLag; ++turn) {
    const int64_t sum = turn - kSumLag, take = sum - kTakeLag;
    if (in_range(turn)) Write(tag, turn, steps);
    if (in_range(sum)) VITSCALE_RETURN_IF_ERROR(Sum(tag, sum, steps));
    if (in_range(take)) VITSCALE_RETURN_IF_ERROR(Take(take, steps));
  }
  next_ += chunks;
  return absl::OkStatus();
}

void SharedGroup::Write(uint32_t tag, int64_t chunk, const Steps& steps) {
  const uint64_t slot = next_ + chunk;
  SharedRegion& region = peers_->region();
  region.block(rank_).tags[slot % kSharedDepth].store(tag, std::memory_order_relaxed);
  steps.write(chunk, region.chunk(rank_, slot));
  peers_->Advance(Mark::kInputs, slot + 1);
}

absl::Status SharedGroup::Sum(uint32_t tag, int64_t chunk, const Steps& steps) {
  const uint64_t slot = next_ + chunk;
  VITSCALE_RETURN_IF_ERROR(peers_->AwaitAll(Mark::kInputs, slot + 1));
  VITSCALE_RETURN_IF_ERROR(CompareTags(tag, slot));
  if (steps.sum) steps.sum(chunk, slot);
  peers_->Advance(Mark::kParts, slot + 1);
  return absl::OkStatus();
}

absl::Status SharedGroup::Take(int64_t chunk, const Steps& steps) {
  const uint64_t slot = next_ + chunk;
  if (steps.sum) VITSCALE_RETURN_IF_ERROR(peers_->AwaitAll(Mark::kParts, slot + 1));
  steps.take(chunk, slot);
  return absl::OkStatus();
}

// Before anything of the peers is used: an operation that not all ranks asked for alike ends here.
absl::Status SharedGroup::CompareTags(uint32_t tag, uint64_t slot) const {
  for (int rank = 0; rank < size_; ++rank) {
    const uint32_t theirs = peers_->region().block(rank).tags[slot % kSharedDepth].load();
    if (theirs == tag) continue;
    return absl::UnavailableError(absl::StrCat("collective mismatch: rank ", rank,
                                               " asked for another operation or size than rank ",
                                               rank_));
  }
  return absl::OkStatus();
}

absl::Status SharedGroup::AllReduceSum(absl::Span<float> values, uint32_t tag) {
  const SharedRegion& region = peers_->region();
  const int64_t chunk_floats = region.chunk_bytes() / sizeof(float);
  const int ranks = size_;
  const auto piece = [&](int64_t chunk) {
    return values.subspan(chunk * chunk_floats, chunk_floats);
  };
  // Each rank's parts of the chunk but its own, which no other rank reads.
  const auto write = [&](int64_t chunk, std::byte* input) {
    const absl::Span<const float> own = piece(chunk);
    const Part part = PartOf(own.size(), rank_, ranks);
    float* const to = reinterpret_cast<float*>(input);
    StreamCopy(own.data(), part.begin, to);
    StreamCopy(own.data() + part.end, own.size() - part.end, to + part.end);
  };
  const auto sum = [&](int64_t chunk, uint64_t slot) {
    const absl::Span<float> own = piece(chunk);
    const Part part = PartOf(own.size(), rank_, ranks);
    std::vector<const float*> inputs(ranks);
    for (int r = 0; r < ranks; ++r) {
      inputs[r] = reinterpret_cast<const float*>(region.chunk(r, slot)) + part.begin;
    }
    inputs[rank_] = own.data() + part.begin;
    float* const shared = reinterpret_cast<float*>(region.chunk(rank_, slot)) + part.begin;
    SumInOrder(inputs, part.end - part.begin, own.data() + part.begin, shared);
  };
  const auto take = [&](int64_t chunk, uint64_t slot) {
    const absl::Span<float> own = piece(chunk);
    for (int r = 0; r < ranks; ++r) {
      const Part part = PartOf(own.size(), r, ranks);
      if (r == rank_ || part.bytes() == 0) continue;
      std::memcpy(own.data() + part.begin, region.chunk(r, slot) + part.begin * sizeof(float),
                  part.bytes());
    }
  };
  const int64_t bytes = values.size() * sizeof(float);
  return Run(tag, ChunksOf(bytes, region.chunk_bytes()), {write, sum, take});
}

absl::Status SharedGroup::AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag) {
  const SharedRegion& region = peers_->region();
  const int64_t chunk_bytes = region.chunk_bytes();
  const auto write = [&](int64_t chunk, std::byte* input) {
    const absl::string_view piece = own.substr(chunk * chunk_bytes, chunk_bytes);
    std::copy(piece.begin(), piece.end(), reinterpret_cast<char*>(input));
  };
  const auto take = [&](int64_t chunk, uint64_t slot) {
    const int64_t at = chunk * chunk_bytes;
    const int64_t bytes = std::min<int64_t>(chunk_bytes, own.size() - at);
    for (int r = 0; r < size_; ++r) {
      std::memcpy(all.data() + r * own.size() + at, region.chunk(r, slot), bytes);
    }
  };
  return Run(tag, ChunksOf(own.size(), chunk_bytes), {write, nullptr, take});
}

absl::Status SharedGroup::Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) {
  if (root < 0 || root >= size_) {
    return absl::InvalidArgumentError(
        absl::StrCat("root is rank ", root, ", want 0 to ", size_ - 1));
  }
  const SharedRegion& region = peers_->region();
  const int64_t chunk_bytes = region.chunk_bytes();
  const auto write = [&](int64_t chunk, std::byte* input) {
    const auto piece = bytes.subspan(chunk * chunk_bytes, chunk_bytes);
    if (rank_ == root) std::copy(piece.begin(), piece.end(), input);
  };
  const auto take = [&](int64_t chunk, uint64_t slot) {
    const auto piece = bytes.subspan(chunk * chunk_bytes, chunk_bytes);
    if (rank_ != root) std::copy_n(region.chunk(root, slot), piece.size(), piece.data());
  };
  return Run(tag, ChunksOf(bytes.size(), chunk_bytes), {write, nullptr, take});
}

absl::Status SharedGroup::Barrier(uint32_t tag) {
  return Run(tag, 1, {[](int64_t, std::byte*) {}, nullptr, [](int64_t, uint32_t) {}});
}

}  // namespace vitscale
