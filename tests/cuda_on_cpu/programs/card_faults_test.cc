// What a card does not have or no longer does, and how a trainer says it: memory that is there
// before the first step or not at all, a device that is lost, one that is not there, one that two
// ranks want.

#include <dlfcn.h>

#include <cstdlib>
#include <fstream>
#include <map>
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

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

std::map<std::string, std::string> Job(int steps) {
  return {{"batch", "{global: 32, micro: 16}"},
          {"schedule", absl::StrCat("{name: rsqrt, warmup: 1 steps, timescale: 1000 steps, total: ",
                                    steps, " steps}")},
          {"checkpoint", "{dir: runs, every: 3 steps}"}};
}

// Of the plugin in this process.
int64_t Allocations() {
  void* plugin = dlopen(VITSCALE_PLUGIN, RTLD_LAZY | RTLD_NOLOAD);
  if (plugin == nullptr) return -1;
  const int64_t count = reinterpret_cast<int64_t (*)()>(dlsym(plugin, "vitscale_allocations"))();
  dlclose(plugin);
  return count;
}

// Two of the evaluations have a range of their own, so there are programs of each kind to prepare.
TEST(CardMemoryTest, NothingIsAllocatedAfterTheFirstStepWhateverIsEvaluatedAndSaved) {
  auto job = Job(8);
  const std::string set = "{format: synthetic, synthetic_images: 40}";
  job["evals"] = absl::StrCat(
      "[{name: val, data: ", set, ", every: 4 steps}, {name: wide, data: ", set,
      ", preprocess: 'value_range(0,1)'}, {name: few, kind: fewshot, shots: [2], seeds: 1, ",
      "support: {format: synthetic, synthetic_images: 64}, data: ", set, ", every: 4 steps}]");
  const TemporaryDirectory folder;
  TestGang::Options options;
  options.job = TinyJob(job);
  options.device = "cuda";
  options.ranks = 2;
  options.checkpoint_root = folder.path();
  int64_t after_step_1 = 0;
  options.on_exchange = [&after_step_1](int64_t step) {
    if (step == 2) after_step_1 = Allocations();  // all ranks have done step 1
  };
  const auto results = RunGang(options);
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  ASSERT_EQ(results[1].exit_code, 0) << results[1].error;
  EXPECT_THAT(RecordsOf<link::EvalRecord>(results[0]), SizeIs(5));
  EXPECT_GT(after_step_1, 0);
  EXPECT_EQ(Allocations(), after_step_1);
}

class CardFaultsTest : public ::testing::Test {
 protected:
  CardFaultsTest() { Write(Job(4)); }
  void TearDown() override {
    for (const std::string& name : set_) unsetenv(name.c_str());
  }
  void Write(const std::map<std::string, std::string>& job) {
    std::ofstream(folder_.path() + "/job.yaml") << TinyJob(job);
  }
  void Set(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), /*replace=*/1);
    set_.push_back(name);
  }
  ChildProcess Start(int rank, std::vector<std::string> more) {
    const std::string root = folder_.path();
    std::vector<std::string> arguments = {VITSCALE_TRAIN, root + "/job.yaml",
                                          "--checkpoint-root=" + root, "--data-root=" + root,
                                          "--threads=1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    (void)PosixFileSystem().Remove(LogPath(rank));
    return ChildProcess(arguments, LogPath(rank));
  }
  // Exit code of one rank alone.
  int Train(std::vector<std::string> more) { return Start(0, std::move(more)).Wait(); }
  ChildProcess StartOneOfTwo(int rank, const std::string& device) {
    return Start(rank, {"--device=" + device, "--world-size=2", absl::StrCat("--rank=", rank),
                        "--rendezvous=" + folder_.path() + "/rendezvous"});
  }
  // Exit codes of both.
  std::pair<int, int> TrainTwo(const std::string& device0, const std::string& device1) {
    ChildProcess zero = StartOneOfTwo(0, device0), one = StartOneOfTwo(1, device1);
    const int second = one.Wait();
    return {zero.Wait(), second};
  }
  std::string LogPath(int rank) const { return absl::StrCat(folder_.path(), "/rank", rank); }
  std::string Log(int rank = 0) const { return ReadText(LogPath(rank)); }

  const TemporaryDirectory folder_;
  std::vector<std::string> set_;
};

// The rank that lost it has to go: its context does not come back in this process.
TEST_F(CardFaultsTest, ADeviceThatIsLostInASumOrAMeetingCostsItsRankAndNoOther) {
  for (const char* when : {"1 7", "1 0"}) {
    Set("VITSCALE_NCCL_LOSES_DEVICE", when);
    EXPECT_EQ(TrainTwo("cuda:0", "cuda:1"), std::make_pair(82, 83)) << when << Log(0) << Log(1);
    EXPECT_THAT(Log(1), AllOf(HasSubstr("cuda:1: "), HasSubstr("unhandled cuda error")));
  }
}

// Seen by nobody until the next generation is formed: a rank that only broke one after the other
// would stay for ever.
TEST_F(CardFaultsTest, ADeviceThatIsFoundLostWhenRanksMeetAgainCostsItsRankToo) {
  Set("VITSCALE_NCCL_LOSES_DEVICE", "1 abort");
  TestGang::Options options;
  options.job = TinyJob(Job(6));
  options.device = "cuda";
  options.ranks = 2;
  options.checkpoint_root = folder_.path();
  options.faults[1] = "fail_collective@step=3";
  options.recoveries_max = 1;
  options.rendezvous_seconds = 3;
  const auto results = RunGang(options);
  EXPECT_EQ(results[1].exit_code, 83);
  EXPECT_THAT(results[1].error, HasSubstr("cuda:1: create stream: unspecified launch failure"));
  EXPECT_TRUE(results[0].observed.collective_failed);
  EXPECT_EQ(results[0].observed.version->step, 2);
}

// Whichever comes second is told by NCCL; the other loses it.
TEST_F(CardFaultsTest, TwoRanksOnOneCardAreToldWhichCardAndThatNoStartWouldHelp) {
  const auto codes = TrainTwo("cuda:0", "cuda:0");
  ASSERT_TRUE(codes.first == 78 || codes.second == 78) << Log(0) << Log(1);
  const int told = codes.first == 78 ? 0 : 1;
  EXPECT_THAT(Log(told), AllOf(HasSubstr(absl::StrCat("cuda:0 of rank ", told, " of 2: ")),
                               HasSubstr("two ranks on one device"),
                               HasSubstr("every rank needs a card of its own")));
}

TEST_F(CardFaultsTest, ARankOnACpuAndOneOnACardDoNotMeetAndTheDeviceIsAmongTheReasons) {
  ChildProcess zero = StartOneOfTwo(0, "cuda:0"), one = StartOneOfTwo(1, "cpu");
  EXPECT_EQ(one.Wait(), 82) << Log(0) << Log(1);  // rank 0 goes on waiting for another
  EXPECT_THAT(Log(1), HasSubstr("other job, device, precision"));
}

TEST_F(CardFaultsTest, WhatAPersonAskedForAndTheMachineLacksIsAConfiguration) {
  EXPECT_EQ(Train({"--device=cuda:2"}), 78);
  EXPECT_THAT(Log(), HasSubstr("no CUDA device: device is cuda:2, this machine has 2\n"));
  Set("VITSCALE_CUDNN", "nonsense");
  EXPECT_EQ(Train({"--device=cuda:0", "--set=precision=bf16"}), 78);
  EXPECT_THAT(Log(), HasSubstr("VITSCALE_CUDNN is 'nonsense'"));
}

TEST_F(CardFaultsTest, ACardThatIsFullIsToldWithThePlansTableBeforeTheFirstStep) {
  Set("VITSCALE_CARD_BYTES", "1000000");
  EXPECT_EQ(Train({"--device=cuda:0"}), 78);
  EXPECT_THAT(Log(), AllOf(HasSubstr("are free; planned:\nmemory on the card"),
                           HasSubstr("memory of the host"), Not(HasSubstr("loss"))));
}

// The largest micro-batch would be as good as any guess.
TEST_F(CardFaultsTest, ACardWhoseMemoryNobodyKnowsWantsAMicroBatch) {
  Set("VITSCALE_NVML", "/nonexistent/libnvidia-ml.so.1");
  auto job = Job(2);
  job["batch"] = "{global: 32}";
  Write(job);
  EXPECT_EQ(Train({"--device=cuda:0"}), 78);
  EXPECT_THAT(Log(), HasSubstr("batch.micro: is not given, and the memory of cuda:0 is not known"));
  EXPECT_EQ(Train({"--device=cuda:0", "--set=batch.micro=16"}), 0) << Log();
}

}  // namespace
}  // namespace vitscale
