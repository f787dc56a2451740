// What the devices of several ranks do together: sums in their own memory, and a few bytes of each
// to all. Lives in the plugin of the devices; kernels/cuda/nccl is the one there is.
//
// One object per generation, never used for another; several may follow each other in a process.
// Nothing here says that a peer is gone: whoever knows calls Abort.
//
// Errors: UNAVAILABLE, a peer was lost or did not come in time; CANCELLED, Abort was called;
// INTERNAL, the library or the device failed. After one only Abort is called, and the values of
// sums under way are undefined until it has ended them.

#ifndef KERNELS_COMMUNICATOR_H_
#define KERNELS_COMMUNICATOR_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/backend.h"

namespace vitscale {

class Communicator {
 public:
  // Aborts what is under way and waits for that.
  virtual ~Communicator() = default;

  // "nccl_2.28.9": part of the numeric class, since it decides the order of sums.
  virtual std::string algorithm() const = 0;

  // ---- of one thread; nothing below waits longer than until Abort ----

  // What one rank makes and all of them connect by. Always of the same size.
  virtual absl::StatusOr<std::string> NewId() = 0;
  // Once, first. Returns when all ranks have called it.
  virtual absl::Status Connect(absl::string_view id, int rank, int world_size,
                               absl::Duration timeout) = 0;
  // Replaces `values`, memory of the device (Backend::DeviceBytes) that is complete, by their sum
  // over all ranks: begins it and returns. It is done when an AllGather that was asked for later
  // has returned.
  virtual absl::Status AllReduceSum(absl::Span<float> values) = 0;
  // `own`, bytes of the host, from all ranks in rank order; of one size, which is not 0.
  virtual absl::Status AllGather(absl::string_view own, absl::Span<char> all) = 0;

  // ---- of any thread, at any time ----

  // Ends everything here, now and later. Any number of times; does not block.
  virtual void Abort() = 0;
};

struct CommunicatorOptions {
  std::string device;  // as BackendOptions::device; one communicator per device at a time
  // An abort that lasts longer has hung, and with it whatever waits for the device.
  absl::Duration abort_timeout = absl::Seconds(2);
  // Called then, on a thread of its own: ends the process, the one way out. Must be given.
  std::function<void()> on_abort_hung;
};

// FAILED_PRECONDITION in one line: no plugin, driver or device, no library or one that is too old.
// INVALID_ARGUMENT: a device that has no communicators.
absl::StatusOr<std::unique_ptr<Communicator>> CreateCommunicator(
    const CommunicatorOptions& options);

}  // namespace vitscale

#endif  // KERNELS_COMMUNICATOR_H_
