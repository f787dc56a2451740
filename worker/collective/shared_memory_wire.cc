#include "worker/collective/shared_memory_wire.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/clock.h"
#include "kernels/base/random.h"
#include "kernels/base/status.h"
#include "worker/collective/shared_handover.h"
#include "worker/collective/shared_peers.h"
#include "worker/collective/shared_region.h"
#include "worker/collective/sum_in_order.h"

namespace vitscale {
namespace {

// All ranks are there already. The others wait longer than rank 0, who tells them how it ended.
constexpr absl::Duration kHandoverTime = absl::Seconds(2);
constexpr absl::Duration kAnswerTime = absl::Seconds(1);
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

class SharedMemoryWire : public Wire {
 public:
  explicit SharedMemoryWire(SharedMemoryOptions options)
      : options_(std::move(options)),
        rendezvous_(options_.identity, options_.rank, options_.world_size) {}

  int rank() const override { return options_.rank; }
  int world_size() const override { return options_.world_size; }
  std::string algorithm() const override { return "shared_memory_in_order"; }

  absl::Status Connect(absl::Duration timeout) override {
    HostCard own = OwnHostCard(options_.host);
    Offer offer;
    if (rank() == 0) {
      VITSCALE_ASSIGN_OR_RETURN(offer, MakeOffer(own));
    }
    VITSCALE_ASSIGN_OR_RETURN(
        const std::vector<std::string> blobs,
        rendezvous_.Meet(options_.rank0_address, options_.listener, own.Encode(), timeout));
    std::vector<HostCard> cards;
    for (const std::string& blob : blobs) {
      VITSCALE_ASSIGN_OR_RETURN(cards.emplace_back(), HostCard::Decode(blob));
    }
    VITSCALE_RETURN_IF_ERROR(CheckOneHost(cards));
    return Share(offer, cards[0]);
  }

  absl::Status AllReduceSum(absl::Span<float> values, uint32_t tag) override;
  absl::Status AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag) override;
  absl::Status Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) override;
  absl::Status Barrier(uint32_t tag) override {
    return Run(tag, 1, {[](int64_t, std::byte*) {}, nullptr, [](int64_t, uint32_t) {}});
  }

  void Shutdown() override {
    rendezvous_.Cancel();
    absl::MutexLock lock(&mutex_);
    down_ = true;
    if (peers_ != nullptr) peers_->Leave();
  }

  std::vector<int> ClosedPeers() const override {
    absl::MutexLock lock(&mutex_);
    return peers_ != nullptr ? peers_->Gone() : std::vector<int>{};
  }

  std::vector<int> Suspects(bool timed_out) const override {
    std::vector<int> suspects = rendezvous_.missing();
    absl::MutexLock lock(&mutex_);
    if (!suspects.empty() || peers_ == nullptr) return suspects;
    suspects = peers_->GoneFirst();
    if (suspects.empty() && timed_out && peers_->awaited() >= 0) return {peers_->awaited()};
    return suspects;
  }

 private:
  // What rank 0 has ready before the others come.
  struct Offer {
    UniqueFd memory, listener;
  };

  SharedShape Shape(const HostCard& rank0) const {
    return {rank0.nonce, options_.world_size, options_.chunk_bytes};
  }

  // A host that cannot give the memory is no error yet: the others must learn it.
  absl::StatusOr<Offer> MakeOffer(HostCard& card) const {
    Offer offer;
    card.socket = SystemRandom().Next();
    card.nonce = SystemRandom().Next() | 1;
    VITSCALE_ASSIGN_OR_RETURN(offer.listener, ListenForHandover(card));
    auto memory = SharedRegion::CreateMemory(Shape(card));
    if (memory.ok()) {
      offer.memory = *std::move(memory);
    } else {
      card.nonce = 0;
    }
    return offer;
  }

  absl::Status Share(const Offer& offer, const HostCard& rank0) {
    const absl::Time deadline = RealClock().Monotonic() + kHandoverTime +
                                (rank() == 0 ? absl::ZeroDuration() : kAnswerTime);
    const HandoverTerms terms{options_.rank, options_.world_size, rank0, deadline,
                              [this] { return IsDown(); }};
    std::unique_ptr<SharedRegion> region;
    const auto map = [&](int memory) {
      VITSCALE_ASSIGN_OR_RETURN(region, SharedRegion::Map(memory, Shape(rank0)));
      return absl::OkStatus();
    };
    auto pidfds =
        rank() == 0 ? HandOut(terms, offer.listener.get(), offer.memory, map) : Receive(terms, map);
    if (absl::IsDeadlineExceeded(pidfds.status())) {
      return absl::UnavailableError(pidfds.status().message());
    }
    VITSCALE_RETURN_IF_ERROR(pidfds.status());
    absl::MutexLock lock(&mutex_);
    peers_ = std::make_unique<SharedPeers>(std::move(region), *std::move(pidfds), rank());
    if (down_) peers_->Leave();
    return absl::OkStatus();
  }

  bool IsDown() const {
    absl::MutexLock lock(&mutex_);
    return down_;
  }

  // What one operation does with each of its chunks; `chunk` counts from 0, `slot` through the
  // generation.
  struct Steps {
    absl::FunctionRef<void(int64_t chunk, std::byte* input)> write;
    const std::function<void(int64_t chunk, uint64_t slot)> sum;  // empty: nothing to sum
    absl::FunctionRef<void(int64_t chunk, uint64_t slot)> take;
  };
  absl::Status Run(uint32_t tag, int64_t chunks, const Steps& steps);
  void Write(uint32_t tag, int64_t chunk, const Steps& steps);
  absl::Status Sum(uint32_t tag, int64_t chunk, const Steps& steps);
  absl::Status Take(int64_t chunk, const Steps& steps);
  absl::Status CompareTags(uint32_t tag, uint64_t slot) const;

  const SharedMemoryOptions options_;
  class Rendezvous rendezvous_;
  uint64_t next_ = 0;  // chunk of the generation; of the operations' thread

  mutable absl::Mutex mutex_;
  bool down_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<SharedPeers> peers_;  // set under the lock, by the operations' thread, once
};

absl::Status SharedMemoryWire::Run(uint32_t tag, int64_t chunks, const Steps& steps) {
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

void SharedMemoryWire::Write(uint32_t tag, int64_t chunk, const Steps& steps) {
  const uint64_t slot = next_ + chunk;
  SharedRegion& region = peers_->region();
  region.block(rank()).tags[slot % kSharedDepth].store(tag, std::memory_order_relaxed);
  steps.write(chunk, region.chunk(rank(), slot));
  peers_->Advance(Mark::kInputs, slot + 1);
}

absl::Status SharedMemoryWire::Sum(uint32_t tag, int64_t chunk, const Steps& steps) {
  const uint64_t slot = next_ + chunk;
  VITSCALE_RETURN_IF_ERROR(peers_->AwaitAll(Mark::kInputs, slot + 1));
  VITSCALE_RETURN_IF_ERROR(CompareTags(tag, slot));
  if (steps.sum) steps.sum(chunk, slot);
  peers_->Advance(Mark::kParts, slot + 1);
  return absl::OkStatus();
}

absl::Status SharedMemoryWire::Take(int64_t chunk, const Steps& steps) {
  const uint64_t slot = next_ + chunk;
  if (steps.sum) VITSCALE_RETURN_IF_ERROR(peers_->AwaitAll(Mark::kParts, slot + 1));
  steps.take(chunk, slot);
  return absl::OkStatus();
}

// Before anything of the peers is used: an operation that not all ranks asked for alike ends here.
absl::Status SharedMemoryWire::CompareTags(uint32_t tag, uint64_t slot) const {
  for (int rank = 0; rank < world_size(); ++rank) {
    const uint32_t theirs = peers_->region().block(rank).tags[slot % kSharedDepth].load();
    if (theirs == tag) continue;
    return absl::UnavailableError(absl::StrCat("collective mismatch: rank ", rank,
                                               " asked for another operation or size than rank ",
                                               options_.rank));
  }
  return absl::OkStatus();
}

absl::Status SharedMemoryWire::AllReduceSum(absl::Span<float> values, uint32_t tag) {
  const SharedRegion& region = peers_->region();
  const int64_t chunk_floats = region.chunk_bytes() / sizeof(float);
  const int ranks = world_size();
  const auto piece = [&](int64_t chunk) {
    return values.subspan(chunk * chunk_floats, chunk_floats);
  };
  // Each rank's parts of the chunk but its own, which no other rank reads.
  const auto write = [&](int64_t chunk, std::byte* input) {
    const absl::Span<const float> own = piece(chunk);
    const Part part = PartOf(own.size(), rank(), ranks);
    float* const to = reinterpret_cast<float*>(input);
    std::copy(own.begin(), own.begin() + part.begin, to);
    std::copy(own.begin() + part.end, own.end(), to + part.end);
  };
  const auto sum = [&](int64_t chunk, uint64_t slot) {
    const absl::Span<float> own = piece(chunk);
    const Part part = PartOf(own.size(), rank(), ranks);
    std::vector<const float*> inputs(ranks);
    for (int r = 0; r < ranks; ++r) {
      inputs[r] = reinterpret_cast<const float*>(region.chunk(r, slot)) + part.begin;
    }
    inputs[rank()] = own.data() + part.begin;
    float* const shared = reinterpret_cast<float*>(region.chunk(rank(), slot)) + part.begin;
    SumInOrder(inputs, part.end - part.begin, own.data() + part.begin, shared);
  };
  const auto take = [&](int64_t chunk, uint64_t slot) {
    const absl::Span<float> own = piece(chunk);
    for (int r = 0; r < ranks; ++r) {
      const Part part = PartOf(own.size(), r, ranks);
      if (r == rank() || part.bytes() == 0) continue;
      std::memcpy(own.data() + part.begin, region.chunk(r, slot) + part.begin * sizeof(float),
                  part.bytes());
    }
  };
  const int64_t bytes = values.size() * sizeof(float);
  return Run(tag, ChunksOf(bytes, region.chunk_bytes()), {write, sum, take});
}

absl::Status SharedMemoryWire::AllGather(absl::string_view own, absl::Span<char> all,
                                         uint32_t tag) {
  const SharedRegion& region = peers_->region();
  const int64_t chunk_bytes = region.chunk_bytes();
  const auto write = [&](int64_t chunk, std::byte* input) {
    const absl::string_view piece = own.substr(chunk * chunk_bytes, chunk_bytes);
    std::copy(piece.begin(), piece.end(), reinterpret_cast<char*>(input));
  };
  const auto take = [&](int64_t chunk, uint64_t slot) {
    const int64_t at = chunk * chunk_bytes;
    const int64_t bytes = std::min<int64_t>(chunk_bytes, own.size() - at);
    for (int r = 0; r < world_size(); ++r) {
      std::memcpy(all.data() + r * own.size() + at, region.chunk(r, slot), bytes);
    }
  };
  return Run(tag, ChunksOf(own.size(), chunk_bytes), {write, nullptr, take});
}

absl::Status SharedMemoryWire::Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) {
  if (root < 0 || root >= world_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("root is rank ", root, ", want 0 to ", world_size() - 1));
  }
  const SharedRegion& region = peers_->region();
  const int64_t chunk_bytes = region.chunk_bytes();
  const auto write = [&](int64_t chunk, std::byte* input) {
    const auto piece = bytes.subspan(chunk * chunk_bytes, chunk_bytes);
    if (rank() == root) std::copy(piece.begin(), piece.end(), input);
  };
  const auto take = [&](int64_t chunk, uint64_t slot) {
    const auto piece = bytes.subspan(chunk * chunk_bytes, chunk_bytes);
    if (rank() != root) std::copy_n(region.chunk(root, slot), piece.size(), piece.data());
  };
  return Run(tag, ChunksOf(bytes.size(), chunk_bytes), {write, nullptr, take});
}

}  // namespace

std::unique_ptr<Wire> MakeSharedMemoryWire(SharedMemoryOptions options) {
  return std::make_unique<SharedMemoryWire>(std::move(options));
}

}  // namespace vitscale
