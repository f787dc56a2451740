// How ranks that know one address find each other: a blob from each rank to rank 0, all blobs back
// to each.
//
// Every trainer owns one listener for its whole life, bound to the data-plane interface, port
// chosen by the system: whichever rank it gets in a generation, its address is already known to the
// coordinator. A connection that does not prove the secret of the generation, or names another
// generation, is answered with a refusal and closed; it never disturbs those who belong.

#ifndef WORKER_COLLECTIVE_RENDEZVOUS_H_
#define WORKER_COLLECTIVE_RENDEZVOUS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/base/unique_fd.h"

namespace vitscale {

// Who meets. All fields but the secret may be logged.
struct RendezvousIdentity {
  std::string secret;  // at most 256 bytes; equal on all ranks
  uint64_t job_hash = 0;
  int64_t attempt = 0;
  int64_t generation = 0;
  uint64_t plan_hash = 0;  // ranks with different plans cannot sum: refused here, by name
};

// A listening TCP socket of this process. Thread-safe; one rendezvous at a time uses it.
class RendezvousListener {
 public:
  // `data_address`: name or IP of one interface; port 0: any free one. UNAVAILABLE names the
  // address tried.
  static absl::StatusOr<std::unique_ptr<RendezvousListener>> Open(absl::string_view data_address,
                                                                  int port = 0);
  // "127.0.0.1:40123": what the others connect to.
  const std::string& address() const { return address_; }
  int fd() const { return fd_.get(); }

 private:
  RendezvousListener(UniqueFd fd, std::string address)
      : fd_(std::move(fd)), address_(std::move(address)) {}
  const UniqueFd fd_;
  const std::string address_;
};

// Who meets where, as seen by one rank.
struct MeetingOptions {
  RendezvousIdentity identity;  // equal on all ranks
  int rank = 0;
  int world_size = 1;
  std::string rank0_address;               // "host:port" of rank 0's listener
  RendezvousListener* listener = nullptr;  // rank 0: its own; must outlive whoever has the options
};

// One meeting. Host and Join block; Cancel from another thread wakes it within 100 ms.
class Rendezvous {
 public:
  Rendezvous(RendezvousIdentity identity, int rank, int world_size);

  // Rank 0: collects from `listener`. UNAVAILABLE: "ranks 1, 3 did not come within 10s"; CANCELLED.
  absl::StatusOr<std::vector<std::string>> Host(RendezvousListener& listener, std::string own_blob,
                                                absl::Duration timeout);
  // Other ranks. Connects again until the deadline while nobody listens. UNAVAILABLE;
  // FAILED_PRECONDITION: rank 0 refused ("generation 7 is wanted, 6 came"); CANCELLED.
  absl::StatusOr<std::vector<std::string>> Join(absl::string_view rank0_address,
                                                std::string own_blob, absl::Duration timeout);
  // The one of the two that is this rank's.
  absl::StatusOr<std::vector<std::string>> Meet(absl::string_view rank0_address,
                                                RendezvousListener* listener, std::string own_blob,
                                                absl::Duration timeout);
  void Cancel() { cancelled_.store(true); }
  // Ranks that were missed when Host ran out of time; Join: {0}.
  std::vector<int> missing() const;

 private:
  const RendezvousIdentity identity_;
  const int rank_;
  const int world_size_;
  std::atomic<bool> cancelled_{false};
  mutable absl::Mutex mutex_;
  std::vector<int> missing_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_RENDEZVOUS_H_
