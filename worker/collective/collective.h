// How the ranks of one generation talk: sums of gradient buckets, one control record per step, a
// few small things.
//
// One object per generation, never used for another. Operations run one after the other, in the
// order they were asked for, on a thread of the collective's own, so that Start overlaps the rest
// of backward; every rank must ask for the same operations in the same order.
//
// Errors: the first one ends the collective: that operation and every later one say it again.
// UNAVAILABLE: a peer was lost, did not come within the time given, or asked for something else
// ("bucket 3: rank 1 has 4096 bytes, rank 0 8192"); CANCELLED: Abort was called;
// FAILED_PRECONDITION: rank 0 refused this rank in the rendezvous; INVALID_ARGUMENT: the caller
// contradicts itself (nothing was sent). After an error the values of buckets under way are
// undefined: a step that failed must be computed anew.
//
// Results are the same bits on every rank. Sums of buckets depend on the number of ranks, not on
// timing.

#ifndef WORKER_COLLECTIVE_COLLECTIVE_H_
#define WORKER_COLLECTIVE_COLLECTIVE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "worker/collective/control_record.h"

namespace vitscale {

class Collective {
 public:
  virtual ~Collective() = default;

  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  // Part of the numeric class: "gloo_ring", "shared_memory_in_order", "single"; with several hosts
  // it names who shares one. Final once Connect has returned OK.
  virtual std::string algorithm() const = 0;

  // Finds all ranks. Once, first. Every rank has arrived when it returns OK.
  virtual absl::Status Connect(absl::Duration timeout) = 0;

  // Replaces `values` by their sum over all ranks. Returns at once; `values` must stay until
  // ExchangeRecords has returned, or until this object is gone. Never fails: the failure shows in
  // the next exchange. `bucket` names it in errors and always has the same size.
  virtual void Start(int bucket, absl::Span<float> values) = 0;

  // Waits for every bucket started, then gives the records of all ranks, in rank order. `timeout`
  // covers both.
  virtual absl::StatusOr<std::vector<ControlRecord>> ExchangeRecords(const ControlRecord& own,
                                                                     absl::Duration timeout) = 0;

  // The bytes of all ranks, in rank order; all of the same size, which must not be 0.
  virtual absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view own,
                                                             absl::Duration timeout) = 0;

  // Overwrites `bytes` on every rank by those of `root`.
  virtual absl::Status Broadcast(int root, absl::Span<std::byte> bytes, absl::Duration timeout) = 0;

  // Returns when every rank has called it.
  virtual absl::Status Barrier(absl::Duration timeout) = 0;

  // Wakes every wait of this rank, Connect included, within 100 ms and makes its peers fail too:
  // they see their connection to this rank close. Thread-safe, any number of times, before and
  // after an error. Does not block.
  virtual void Abort() = 0;

  // Ranks that the error points at; a guess, empty without an error and after an own Abort.
  // Thread-safe.
  virtual std::vector<int> suspects() const = 0;

  // Bytes that this rank has handed over and that have passed: of buckets, records, and of what it
  // gave to AllGather. 0 for a rank alone, whose bytes go nowhere. Thread-safe.
  virtual int64_t bytes_handed_over() const = 0;
};

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_COLLECTIVE_H_
