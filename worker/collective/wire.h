// What an implementation of Collective is made of: blocking operations between connected ranks.
//
// A sum may only have begun when AllReduceSum returns, where the wire says so: the next AllGather
// waits for it.
//
// QueuedCollective puts the thread, the queue, the deadlines and the errors around it. Operations
// and Connect are called by one thread, one at a time, and last as long as it takes: whoever wants
// a deadline calls Shutdown at it.
//
// Errors: UNAVAILABLE, a peer is lost; FAILED_PRECONDITION from Connect; INVALID_ARGUMENT. After
// one nothing but the functions for any thread is called.

#ifndef WORKER_COLLECTIVE_WIRE_H_
#define WORKER_COLLECTIVE_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace vitscale {

class Wire {
 public:
  virtual ~Wire() = default;

  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  virtual std::string algorithm() const = 0;  // see Collective

  // Keeps `timeout` for the ranks to come, since it knows who is missing; what it does with those
  // who came takes some seconds at most.
  virtual absl::Status Connect(absl::Duration timeout) = 0;

  // `tag` is equal on all ranks that ask for the same operation. Ranks whose tags differ never mix
  // their bytes: they fail, or wait until Shutdown.
  virtual absl::Status AllReduceSum(absl::Span<float> values, uint32_t tag) = 0;
  // `all` has world_size() times the bytes of `own`.
  virtual absl::Status AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag) = 0;
  virtual absl::Status Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) = 0;
  virtual absl::Status Barrier(uint32_t tag) = 0;

  // ---- of any thread, at any time ----

  // Ends every wait here and at the peers, now and later. Any number of times; does not block.
  virtual void Shutdown() = 0;
  // Peers that are gone and that the operation under way still needs. Ask before Shutdown.
  virtual std::vector<int> ClosedPeers() const = 0;
  // Whom an error points at; `timed_out`: the operation under way has lasted too long.
  virtual std::vector<int> Suspects(bool timed_out) const = 0;
};

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_WIRE_H_
