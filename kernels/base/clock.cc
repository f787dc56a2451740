#include "kernels/base/clock.h"

#include <ctime>

#include "kernels/base/status.h"

namespace vitscale {
namespace {

absl::Time ReadClock(clockid_t id) {
  timespec now{};
  VITSCALE_CHECK(clock_gettime(id, &now) == 0);
  return absl::TimeFromTimespec(now);
}

class SystemClock : public Clock {
 public:
  absl::Time Now() override { return ReadClock(CLOCK_REALTIME); }
  absl::Time Monotonic() override { return ReadClock(CLOCK_BOOTTIME); }
};

}  // namespace

Clock& RealClock() {
  static SystemClock* clock = new SystemClock;
  return *clock;
}

FakeClock::FakeClock()
    : wall_(absl::FromUnixSeconds(1'700'000'000)), monotonic_(absl::UnixEpoch() + absl::Hours(1)) {}

absl::Time FakeClock::Now() {
  std::lock_guard<std::mutex> lock(mutex_);
  return wall_;
}

absl::Time FakeClock::Monotonic() {
  std::lock_guard<std::mutex> lock(mutex_);
  return monotonic_;
}

void FakeClock::Advance(absl::Duration duration) {
  VITSCALE_CHECK(duration >= absl::ZeroDuration()) << duration << " goes backwards";
  std::lock_guard<std::mutex> lock(mutex_);
  wall_ += duration;
  monotonic_ += duration;
}

void FakeClock::SetWall(absl::Time now) {
  std::lock_guard<std::mutex> lock(mutex_);
  wall_ = now;
}

}  // namespace vitscale
