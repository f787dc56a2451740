// A trainer as a process: what it inherits, how it ends, and that nothing of it is left.

#include "worker/agent/trainer_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <string>

#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "tests/worker/agent/fake_trainer_path.h"
#include "worker/link/channel.h"
#include "worker/link/codec.h"

namespace vitscale::agent {
namespace {

using testing::HasSubstr;

class TrainerProcessTest : public testing::Test {
 protected:
  TrainerProcess Start(const std::string& faults = "obey") {
    lock_ = UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    auto process = TrainerProcess::Start(FakeTrainerPath(), {"--link-fd=3"}, lock_.get());
    EXPECT_THAT(process, IsOk());
    Order(*process, {.setup = link::TrainerSetup{.faults = faults}});
    return *std::move(process);
  }

  static void Order(const TrainerProcess& process, const link::TrainerOrder& order) {
    const std::string frame = link::EncodeFrame(link::EncodeOrder(order));
    ASSERT_EQ(write(process.link(), frame.data(), frame.size()),
              static_cast<ssize_t>(frame.size()));
  }
  static void OrderStage(const TrainerProcess& process, link::Stage stage) {
    Order(process, {.desired = link::DesiredState{.stage = stage}});
  }

  static int WaitForEnd(TrainerProcess& process) {
    pollfd entry{process.pidfd(), POLLIN, 0};
    EXPECT_EQ(poll(&entry, 1, 20'000), 1) << "the trainer did not end";
    const auto code = process.Reap();
    EXPECT_TRUE(code.has_value());
    return code.value_or(-1);
  }
  static std::string ReadAll(int fd) {
    std::string all;
    char chunk[4096];
    for (;;) {
      pollfd entry{fd, POLLIN, 0};
      if (poll(&entry, 1, 20'000) != 1) return all + " (no end)";
      const ssize_t got = read(fd, chunk, sizeof(chunk));
      if (got <= 0) return all;
      all.append(chunk, static_cast<size_t>(got));
    }
  }

  UniqueFd lock_;
};

TEST_F(TrainerProcessTest, HasItsLinkItsLockAndNothingElseInASessionOfItsOwn) {
  // Descriptors of ours that are not close-on-exec must not reach it either.
  const UniqueFd leak(open("/dev/null", O_RDONLY));
  TrainerProcess process = Start();
  OrderStage(process, link::Stage::kExit);
  EXPECT_EQ(WaitForEnd(process), 0);
  const std::string output = ReadAll(process.output());
  EXPECT_THAT(output, HasSubstr("descriptors 0 1 2 3 4\n"));
  EXPECT_THAT(output, HasSubstr("session 1 group 1 term blocked 1\n"));
  EXPECT_THAT(ReadAll(process.error()), HasSubstr("process " + std::to_string(process.pid())));
  EXPECT_TRUE(process.GroupEmpty());
}

TEST_F(TrainerProcessTest, RunsUntilItIsKilledAndSaysBySignalOrCodeHowItEnded) {
  TrainerProcess ignoring = Start("ignore");
  OrderStage(ignoring, link::Stage::kExit);
  EXPECT_EQ(ignoring.Reap(), std::nullopt);
  EXPECT_FALSE(ignoring.GroupEmpty());
  kill(ignoring.pid(), SIGTERM);  // no order
  EXPECT_EQ(ignoring.Reap(), std::nullopt);
  ignoring.KillGroup();
  EXPECT_EQ(WaitForEnd(ignoring), 137);
  TrainerProcess crashing = Start("crash");
  OrderStage(crashing, link::Stage::kGo);
  EXPECT_EQ(WaitForEnd(crashing), 134);
  TrainerProcess leaving = Start("exit=80");
  OrderStage(leaving, link::Stage::kGo);
  EXPECT_EQ(WaitForEnd(leaving), 80);
}

TEST_F(TrainerProcessTest, WhatItStartedIsKilledWithItBeforeTheDeviceIsFree) {
  TrainerProcess process = Start("child");
  OrderStage(process, link::Stage::kGo);
  OrderStage(process, link::Stage::kExit);
  EXPECT_EQ(WaitForEnd(process), 0);
  // Killed by Reap; it goes as soon as the kernel gets round to it. Its pipe ends only with it.
  EXPECT_THAT(ReadAll(process.output()), HasSubstr("descriptors"));
  for (int i = 0; i < 2000 && !process.GroupEmpty(); ++i) usleep(10'000);
  EXPECT_TRUE(process.GroupEmpty());
}

TEST_F(TrainerProcessTest, EndsWhenItsLinkIsClosed) {
  TrainerProcess process = Start("ignore");
  process.CloseLink();
  EXPECT_EQ(WaitForEnd(process), 85);
}

TEST_F(TrainerProcessTest, AProgramThatCannotBeStartedIsAnErrorThatNamesIt) {
  EXPECT_THAT(TrainerProcess::Start("/nowhere/trainer", {}, 0),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/trainer")));
}

}  // namespace
}  // namespace vitscale::agent
