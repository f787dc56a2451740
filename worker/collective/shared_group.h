// Operations between ranks of one host on memory that all of them map: who writes what when, and
// how ranks wait.
//
// Everything moves in chunks, counted through the whole generation; chunk k of a rank lies in slot
// k mod kSharedDepth of its ring. Each rank does with each chunk k of an operation:
//   1. write: its input, and count it (Mark::kInputs);
//   2. sum, once the inputs k of all are there: its part of them in rank order, over its own input
//      of that part, and count it (Mark::kParts);
//   3. take, once the parts k of all are there: copy them to where they belong.
// Operations other than sums have no step 2 and take once the inputs are there.
//
// So that ranks need not keep pace, in turn t a rank writes chunk t, sums chunk t - kSumLag and
// takes chunk t - kSumLag - kTakeLag. A slot is never written before all have taken what is in it:
// who writes chunk t has seen the inputs t - 1 - kSumLag of all (or, at the start of an operation,
// the end of the one before), so all have finished turn t - 2 - kSumLag, hence have taken chunk
// t - 2 - 2 kSumLag - kTakeLag: with a ring as long as that, its slot is free.
//
// Waiting: a short spin, then a futex on the peer's count for 20 ms at most, after which the peer
// is looked at.
//
// Ranks here are places among those of the host. Operations belong to one thread, the rest to any.
// Errors as those of Wire.

#ifndef WORKER_COLLECTIVE_SHARED_GROUP_H_
#define WORKER_COLLECTIVE_SHARED_GROUP_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/collective/shared_peers.h"

namespace vitscale {

class SharedGroup {
 public:
  SharedGroup(std::unique_ptr<SharedPeers> peers, int rank, int size)
      : peers_(std::move(peers)), rank_(rank), size_(size) {}

  int rank() const { return rank_; }
  int size() const { return size_; }
  SharedPeers& peers() const { return *peers_; }

  // In rank order: ((rank 0 + rank 1) + rank 2) …
  absl::Status AllReduceSum(absl::Span<float> values, uint32_t tag);
  absl::Status AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag);
  absl::Status Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag);
  absl::Status Barrier(uint32_t tag);

 private:
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

  const std::unique_ptr<SharedPeers> peers_;
  const int rank_, size_;
  uint64_t next_ = 0;  // chunk of the generation
};

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SHARED_GROUP_H_
