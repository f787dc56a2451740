#include "kernels/base/clock.h"

#include "gmock/gmock.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/version.h"

namespace vitscale {
namespace {

TEST(FakeClockTest, MovesOnlyWhenToldAndMonotonicIgnoresTheWall) {
  FakeClock clock;
  const absl::Time wall = clock.Now(), monotonic = clock.Monotonic();
  clock.Advance(absl::Seconds(5));
  EXPECT_EQ(clock.Now() - wall, absl::Seconds(5));
  EXPECT_EQ(clock.Monotonic() - monotonic, absl::Seconds(5));
  clock.SetWall(absl::UnixEpoch());
  EXPECT_EQ(clock.Now(), absl::UnixEpoch());
  EXPECT_EQ(clock.Monotonic() - monotonic, absl::Seconds(5));
}

TEST(RealClockTest, MonotonicNeverGoesBackAndWallIsThisCentury) {
  const absl::Time before = RealClock().Monotonic();
  EXPECT_LE(before, RealClock().Monotonic());
  EXPECT_GT(RealClock().Now(), absl::FromUnixSeconds(1'700'000'000));
}

TEST(ProcessStatsTest, TellsMemoryTimeAndCores) {
  EXPECT_GT(ResidentBytes(), 0);
  EXPECT_GE(PeakResidentBytes(), ResidentBytes() / 2);  // the kernel batches both counters
  EXPECT_GT(ProcessCpuTime(), absl::ZeroDuration());
  EXPECT_GE(UsableCores(), 1);
}

TEST(VersionTest, NamesVersionAndRevision) {
  EXPECT_EQ(VersionText(), std::string(kVersion) + " (" + Revision() + ")");
}

}  // namespace
}  // namespace vitscale
