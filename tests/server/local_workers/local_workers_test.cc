// The keeper of local agents, with a shell script in their place: it takes the device lock as an
// agent does.

#include "server/local_workers/local_workers.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

// Holds the lock of --device in --lock-dir with its pid inside, until SIGTERM (or for ever, if told
// to be stubborn).
constexpr char kFakeAgent[] = R"(#!/bin/bash
for a in "$@"; do case $a in --device=*) device=${a#*=};; --lock-dir=*) locks=${a#*=};; --stubborn) stubborn=1;; esac; done
exec 9<>"$locks/$device.lock"
flock -n 9 || exit 78
echo $$ > "$locks/$device.lock"
[ -n "$stubborn" ] && trap '' TERM || trap 'exit 0' TERM
echo started >> "$locks/$device.starts"
while :; do sleep 0.05 9>&-; done
)";

class LocalWorkersTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/vitscale-local-XXXXXX";
    folder_ = mkdtemp(folder);
    std::ofstream(folder_ + "/agent") << kFakeAgent;
    chmod((folder_ + "/agent").c_str(), 0755);
  }
  void TearDown() override {
    if (workers_ != nullptr) {
      EXPECT_THAT(workers_->Stop(absl::ZeroDuration()), IsOk());
    }
    workers_.reset();
    std::filesystem::remove_all(folder_);
  }
  LocalWorkersOptions Options(int count) {
    LocalWorkersOptions options;
    options.count = count;
    options.program = folder_ + "/agent";
    options.lock_directory = folder_;
    options.state_directory = folder_;
    options.backoff_min = absl::Milliseconds(50);
    options.poll = absl::Milliseconds(10);
    return options;
  }
  int Starts(int device) {
    std::ifstream in(absl::StrCat(folder_, "/cpu", device, ".starts"));
    return static_cast<int>(std::count(std::istreambuf_iterator<char>(in), {}, '\n'));
  }
  bool Eventually(const std::function<bool()>& condition) {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (!condition() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
    return condition();
  }
  std::string folder_;
  std::unique_ptr<LocalWorkers> workers_;
};

TEST_F(LocalWorkersTest, StartsOneAgentPerDeviceAndStopsThemAll) {
  workers_ = std::make_unique<LocalWorkers>(Options(2), RealClock());
  ASSERT_TRUE(Eventually([&] { return Starts(0) == 1 && Starts(1) == 1; }));
  EXPECT_THAT(workers_->Stop(absl::Seconds(10)), IsOk());
  EXPECT_EQ(workers_->Agents(), (std::vector<pid_t>{0, 0}));
}

TEST_F(LocalWorkersTest, StartsADeadAgentAgain) {
  workers_ = std::make_unique<LocalWorkers>(Options(1), RealClock());
  ASSERT_TRUE(Eventually([&] { return Starts(0) == 1; }));
  kill(workers_->Agents()[0], SIGKILL);
  EXPECT_TRUE(Eventually([&] { return Starts(0) == 2; }));
}

TEST_F(LocalWorkersTest, ARestartedCoordinatorLeavesALivingAgentAloneAndStopsItInTheEnd) {
  workers_ = std::make_unique<LocalWorkers>(Options(1), RealClock());
  ASSERT_TRUE(Eventually([&] { return Starts(0) == 1; }));
  const pid_t agent = workers_->Agents()[0];
  workers_.reset();  // as if killed
  workers_ = std::make_unique<LocalWorkers>(Options(1), RealClock());
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(Starts(0), 1);
  EXPECT_EQ(workers_->Agents()[0], agent);
  EXPECT_THAT(workers_->Stop(absl::Seconds(10)), IsOk());
  // The first keeper's child is this process's child too; a real earlier life would have left it to
  // init.
  EXPECT_TRUE(Eventually([&] { return kill(agent, 0) != 0 || workers_->Agents()[0] == 0; }));
}

TEST_F(LocalWorkersTest, AnAgentThatIgnoresTheRequestIsKilledAfterTheGrace) {
  LocalWorkersOptions options = Options(1);
  options.flags = {"--stubborn"};
  workers_ = std::make_unique<LocalWorkers>(options, RealClock());
  ASSERT_TRUE(Eventually([&] { return Starts(0) == 1; }));
  EXPECT_THAT(workers_->Stop(absl::Milliseconds(200)), IsOk());
  EXPECT_EQ(workers_->Agents()[0], 0);
}

}  // namespace
}  // namespace vitscale
