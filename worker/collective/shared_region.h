// The memory that ranks of one host share: a memfd of sealed size, one control block and a
// ring of chunks per rank.
//
// Every rank writes only its own block and its own chunks (but for the counters of sleepers, which
// cost a system call if they are wrong). What a peer writes is never used as a size or an index: it
// can spoil sums and make this rank fail, not more. The seals keep a peer from shrinking the file
// under a reader.

#ifndef WORKER_COLLECTIVE_SHARED_REGION_H_
#define WORKER_COLLECTIVE_SHARED_REGION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/unique_fd.h"
#include "worker/collective/host_card.h"

namespace vitscale {

inline constexpr int kSharedDepth = 8;  // chunks of a rank: see shared_memory_wire.h

// Equal on all ranks.
struct SharedShape {
  uint64_t nonce = 0;       // of this generation, random
  int world_size = 0;       // 2 to kSharedRanksMax
  int64_t chunk_bytes = 0;  // a multiple of 4096, at most 64 MiB
};

// What a rank has done, counted in chunks.
enum class Mark { kInputs = 0, kParts = 1 };
inline constexpr int kMarks = 2;

struct alignas(128) RankBlock {
  std::atomic<uint32_t> done[kMarks];        // by Mark; they wrap; futexes
  std::atomic<uint32_t> left;                // not 0: this rank takes part in nothing any more
  std::atomic<uint32_t> tags[kSharedDepth];  // the operation that each chunk belongs to
  alignas(64) std::atomic<uint32_t> sleepers[kMarks];  // ranks that wait for `done` in the kernel
};
static_assert(sizeof(RankBlock) == 128 && std::atomic<uint32_t>::is_always_lock_free);

class SharedRegion {
 public:
  // Rank 0: makes the memory; the descriptor goes to the others. All its pages are there, or
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<UniqueFd> CreateMemory(const SharedShape& shape);
  // FAILED_PRECONDITION: `memory` is not what CreateMemory made for this `shape`. The descriptor
  // may be closed afterwards.
  static absl::StatusOr<std::unique_ptr<SharedRegion>> Map(int memory, const SharedShape& shape);
  ~SharedRegion();

  RankBlock& block(int rank) const { return blocks_[rank]; }
  std::byte* chunk(int rank, uint64_t index) const {
    return chunks_ +
           (static_cast<int64_t>(rank) * kSharedDepth + index % kSharedDepth) * shape_.chunk_bytes;
  }
  int64_t chunk_bytes() const { return shape_.chunk_bytes; }

 private:
  SharedRegion(const SharedShape& shape, std::byte* base);
  const SharedShape shape_;
  std::byte* const base_;
  RankBlock* const blocks_;
  std::byte* const chunks_;
};

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SHARED_REGION_H_
