// Time as a seam: nothing below main reads a clock except through this interface.
//
// Two clocks. Now() is for people and file names; it jumps when the machine's time is set. Monotonic() is for
// deadlines and durations: its epoch is arbitrary, only differences mean something, and it counts on while the
// machine sleeps.

#ifndef KERNELS_BASE_CLOCK_H_
#define KERNELS_BASE_CLOCK_H_

#include <mutex>

#include "absl/time/time.h"

namespace vitscale {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() = 0;
  virtual absl::Time Monotonic() = 0;
};

// CLOCK_REALTIME and CLOCK_BOOTTIME.
Clock& RealClock();

// Moves only when told. Thread-safe.
class FakeClock : public Clock {
 public:
  // Both clocks start at a fixed date, the monotonic one at an hour after its epoch.
  FakeClock();
  absl::Time Now() override;
  absl::Time Monotonic() override;
  void Advance(absl::Duration duration);  // both; never backwards
  void SetWall(absl::Time now);           // what an administrator or NTP does; Monotonic() stays

 private:
  std::mutex mutex_;
  absl::Time wall_;
  absl::Time monotonic_;
};

}  // namespace vitscale

#endif  // KERNELS_BASE_CLOCK_H_
