// Two programs with a card each: they sum through the stand-in of NCCL, and one of them is killed.

#include <signal.h>

#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/child_process.h"
#include "tests/worker/trainer/test_gang.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class TwoProgramsTest : public ::testing::Test {
 protected:
  TwoProgramsTest() {
    std::ofstream(folder_.path() + "/job.yaml") << TinyJob(
        {{"batch", "{global: 32, micro: 16}"},
         {"schedule", "{name: rsqrt, warmup: 1 steps, timescale: 1000 steps, total: 6 steps}"},
         {"checkpoint", "{dir: runs, every: 2 steps}"}});
  }
  std::string Root(const std::string& name) {
    const std::string root = folder_.path() + "/" + name;
    EXPECT_THAT(PosixFileSystem().MakeDirectories(root), IsOk());
    return root;
  }
  std::unique_ptr<ChildProcess> Start(const std::string& root, int rank,
                                      const std::string& faults = "") {
    std::vector<std::string> arguments = {VITSCALE_TRAIN,
                                          folder_.path() + "/job.yaml",
                                          "--device=cuda",
                                          "--checkpoint-root=" + root,
                                          "--data-root=" + root,
                                          "--job-id=two",
                                          absl::StrCat("--rank=", rank),
                                          "--world-size=2",
                                          "--rendezvous=" + root + "/rendezvous",
                                          "--threads=1"};
    if (!faults.empty()) arguments.push_back("--faults=" + faults);
    return std::make_unique<ChildProcess>(arguments, LogOf(root, rank));
  }
  static std::string LogOf(const std::string& root, int rank) {
    return absl::StrCat(root, "/rank", rank, ".log");
  }
  // Exit codes of both.
  std::pair<int, int> Run(const std::string& root, const std::string& faults_of_1 = "") {
    const auto zero = Start(root, 0), one = Start(root, 1, faults_of_1);
    const int second = one->Wait();
    return {zero->Wait(), second};
  }

  // The state in the newest checkpoint, by tensor.
  static std::map<std::string, std::string> NewestState(const std::string& root) {
    const auto store = CheckpointStore::Open(PosixFileSystem(), root + "/runs", "two");
    const auto usable = store->Usable();
    if (!usable.ok() || usable->empty()) return {};
    return ReadCheckpoint(root, usable->front().id);
  }

  const TemporaryDirectory folder_;
};

TEST_F(TwoProgramsTest, AKilledRankEndsTheOtherAndTheNextStartGoesOnBitForBit) {
  const std::string whole = Root("whole"), cut = Root("cut");
  ASSERT_EQ(Run(whole), std::make_pair(0, 0)) << ReadText(LogOf(whole, 0));
  EXPECT_THAT(ReadText(LogOf(whole, 0)), HasSubstr("2 ranks have met: nccl_2."));
  EXPECT_EQ(Run(cut, "kill@bucket,step=5"), std::make_pair(82, 128 + SIGKILL))
      << ReadText(LogOf(cut, 0));
  ASSERT_EQ(Run(cut), std::make_pair(0, 0)) << ReadText(LogOf(cut, 0));
  const auto state = NewestState(cut);
  EXPECT_THAT(state, Not(IsEmpty()));
  EXPECT_EQ(state, NewestState(whole));
}

}  // namespace
}  // namespace vitscale
