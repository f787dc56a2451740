// vitscale-train as processes: kills, signals, resumes, what it writes.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/worker/trainer/programs_fixture.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

TEST_F(ProgramsTest, SixtyStepsEqualThirtyAndAKillAndThirtyBitForBitWithTwoRanks) {
  const std::string whole = MakeRoot("whole");
  ASSERT_EQ(TrainTwo(whole), std::make_pair(0, 0)) << ReadText(whole + "/r0.log");
  for (const std::string point :
       {"bucket,step=37", "gate,step=37", "applied,step=37", "checkpoint_part,step=45"}) {
    const std::string cut = MakeRoot(absl::StrCat("cut_", point.substr(0, point.find(','))));
    const auto codes = TrainTwo(cut, absl::StrCat("kill@", point));
    EXPECT_EQ(codes, std::make_pair(82, 128 + SIGKILL)) << point << ReadText(cut + "/r0.log");
    // Saving goes on beside training: how far it came depends on the machine.
    EXPECT_THAT(NewestId(cut), AnyOf(HasSubstr("step_000000030"), HasSubstr("step_000000015"), ""))
        << "nothing half-saved counts";
    ASSERT_EQ(TrainTwo(cut), std::make_pair(0, 0)) << ReadText(cut + "/r0.log");
    // Parameters, momentum and second moment.
    EXPECT_EQ(ReadCheckpoint(cut, NewestId(cut)), ReadCheckpoint(whole, NewestId(whole))) << point;
    const std::vector<std::string> lines =
        absl::StrSplit(ReadText(cut + "/steps.csv"), '\n', absl::SkipEmpty());
    ASSERT_THAT(lines, SizeIs(1 + 60)) << "one file, whatever was cut";
    for (int step = 1; step <= 60; ++step)
      EXPECT_THAT(lines[step], StartsWith(absl::StrCat(step, ","))) << point;
  }
}

// Both ranks run here; --pretended-host makes them believe otherwise.
TEST_F(ProgramsTest, RanksOfOneHostShareMemoryOthersUseTcpAndCheckpointsAndResumesSayWhich) {
  const std::string root = MakeRoot("root");
  using Flags = std::vector<std::string>;
  const auto train = [&](int steps, const Flags& of_0, const Flags& of_1) {
    for (const char* log : {"/r0.log", "/r1.log"}) (void)PosixFileSystem().Remove(root + log);
    Flags zero = Arguments(root, 0, 2), one = Arguments(root, 1, 2);
    for (Flags* flags : {&zero, &one}) {
      flags->push_back("--set=schedule.warmup=5 steps");
      flags->push_back(absl::StrCat("--set=schedule.total=", steps, " steps"));
    }
    zero.insert(zero.end(), of_0.begin(), of_0.end());
    one.insert(one.end(), of_1.begin(), of_1.end());
    ChildProcess first(zero, root + "/r0.log"), last(one, root + "/r1.log");
    const int code = last.Wait();
    return std::make_pair(first.Wait(), code);
  };
  const auto recorded = [&] {
    const auto store =
        CheckpointStore::Open(PosixFileSystem(), root + "/runs", StandaloneJobId("tiny"));
    return store->Usable()->front().manifest.numerics.collective;
  };
  const auto kGood = std::make_pair(0, 0);
  ASSERT_EQ(train(15, {}, {}), kGood) << ReadText(root + "/r0.log");
  EXPECT_EQ(recorded(), "shared_memory_in_order");
  EXPECT_THAT(ReadText(root + "/r0.log"),
              AllOf(HasSubstr("2 ranks have met: shared_memory_in_order"), HasSubstr("phases     "),
                    HasSubstr("ranks      2, shared_memory_in_order")));

  ASSERT_EQ(train(30, {}, {"--pretended-host=1"}), kGood) << ReadText(root + "/r0.log");
  EXPECT_EQ(recorded(), "gloo_ring");
  EXPECT_THAT(ReadText(root + "/r0.log"),
              AllOf(HasSubstr("differ in their boot id; they meet over TCP"),
                    HasSubstr("resumes, not bit-exact: collective \"shared_memory_in_order\", now "
                              "\"gloo_ring\""),
                    HasSubstr("ranks      2, gloo_ring")));

  ASSERT_EQ(train(45, {"--transport=gloo"}, {"--transport=gloo"}), kGood)
      << ReadText(root + "/r0.log");
  EXPECT_EQ(recorded(), "gloo_ring");
  EXPECT_THAT(ReadText(root + "/r0.log"), Not(HasSubstr("not bit-exact")));

  EXPECT_EQ(
      train(60, {"--transport=shared_memory"}, {"--transport=shared_memory", "--pretended-host=1"}),
      std::make_pair(78, 78));
  EXPECT_THAT(ReadText(root + "/r0.log"),
              HasSubstr("the ranks cannot share memory: each is alone on its host"));
  EXPECT_EQ(train(60, {"--transport=gloo", "--rendezvous-timeout=5"}, {}), std::make_pair(82, 82));
  EXPECT_THAT(ReadText(root + "/r1.log"), HasSubstr("build or transport"));
}

TEST_F(ProgramsTest, AKillBeforeTheManifestLeavesTheCheckpointBefore) {
  const std::string root = MakeRoot("root");
  ChildProcess zero(Arguments(root, 0, 2, "kill@before_manifest,step=30"), root + "/r0.log");
  ChildProcess one(Arguments(root, 1, 2), root + "/r1.log");
  EXPECT_EQ(zero.Wait(), 128 + SIGKILL);
  EXPECT_EQ(one.Wait(), 82) << ReadText(root + "/r1.log");
  EXPECT_THAT(NewestId(root), HasSubstr("step_000000015"));
  ASSERT_EQ(TrainTwo(root), std::make_pair(0, 0)) << ReadText(root + "/r0.log");
}

TEST_F(ProgramsTest, SigtermSavesAndExitsWith75AndTheNextStartFinishes) {
  const std::string root = MakeRoot("root");
  {
    // Longer than anybody waits, so that the signal comes in the middle.
    std::vector<std::string> arguments = Arguments(root, 0, 1);
    arguments.push_back("--set=schedule.total=1000000 steps");
    ChildProcess program(arguments, root + "/log");
    while (!absl::StrContains(ReadText(root + "/steps.csv"), "\n3,")) usleep(2000);
    program.Signal(SIGTERM);
    EXPECT_EQ(program.Wait(), 75) << ReadText(root + "/log");
  }
  EXPECT_THAT(NewestId(root), HasSubstr("/a0001.g0001.step_"));
  std::vector<std::string> arguments = Arguments(root, 0, 1);
  arguments.push_back("--set=schedule.total=1000 steps");
  EXPECT_THAT(ChildProcess(arguments, root + "/log").Wait(), 0) << ReadText(root + "/log");
}

TEST_F(ProgramsTest, AJobThatChangedGoesOnAndSaysWhatChanged) {
  const std::string root = MakeRoot("root");
  ASSERT_EQ(TrainOne(root, {"--set=schedule.total=15 steps", kShort}), 0)
      << ReadText(root + "/log");
  EXPECT_THAT(ReadText(root + "/log"), Not(HasSubstr("going on")));
  ASSERT_EQ(TrainOne(root, {"--set=optimizer.lr=2e-3", "--set=schedule.total=20 steps", kShort}),
            0);
  EXPECT_THAT(ReadText(root + "/log"),
              AllOf(HasSubstr("/a0001.g0001.step_000000015 with another job"),
                    HasSubstr("optimizer.lr: was 0.001, is 0.002; schedule.total: was 15 steps, is "
                              "20 steps\n")));
}

TEST_F(ProgramsTest, AJobThatHasAllItsStepsSaysSoAndChangesNothing) {
  const std::string root = MakeRoot("root");
  ASSERT_EQ(TrainOne(root, {"--set=schedule.total=15 steps", kShort}), 0)
      << ReadText(root + "/log");
  const std::string steps = ReadText(root + "/steps.csv"), newest = NewestId(root);
  EXPECT_EQ(TrainOne(root, {"--set=schedule.total=3 steps", kShort}), 0);
  EXPECT_THAT(ReadText(root + "/log"), HasSubstr("nothing to do: 15 of 3 steps are done\n"));
  EXPECT_EQ(ReadText(root + "/steps.csv"), steps);
  EXPECT_EQ(NewestId(root), newest);
}

TEST_F(ProgramsTest, StepsThatCannotBeWrittenAreAnErrorAndForeignFilesStay) {
  const std::string root = MakeRoot("root");
  EXPECT_EQ(TrainOne(root, {"--steps-csv=/dev/full"}), 2);
  EXPECT_THAT(ReadText(root + "/log"), HasSubstr("--steps-csv: write '/dev/full': No space left"));
  std::ofstream(root + "/notes.txt") << "mine\n";
  EXPECT_EQ(TrainOne(root, {"--steps-csv=" + root + "/notes.txt"}), 2);
  EXPECT_THAT(ReadText(root + "/log"), HasSubstr("was not written by --steps-csv"));
  EXPECT_EQ(ReadText(root + "/notes.txt"), "mine\n");
}

// A pipe takes 64 KiB while nobody reads, fewer than all rows, and breaks when its reader leaves.
TEST_F(ProgramsTest, StepsThatCannotBeWrittenAnyMoreCostTheExitCodeNotTheTraining) {
  const std::string root = MakeRoot("root"), fifo = root + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const int reader = open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  ChildProcess program({VITSCALE_TRAIN, Path("job.yaml"), "--checkpoint-root=" + root,
                        "--data-root=" + root, "--threads=1", "--steps-csv=" + fifo,
                        "--set=schedule.total=600 steps", "--set=checkpoint.every=600 steps"},
                       root + "/log");
  char byte;
  while (read(reader, &byte, 1) != 1) usleep(1000);
  close(reader);
  EXPECT_EQ(program.Wait(), 84);
  EXPECT_THAT(ReadText(root + "/log"), HasSubstr("Broken pipe; training goes on without it"));
  EXPECT_THAT(NewestId(root), HasSubstr("step_000000600"));
}

TEST_F(ProgramsTest, ARendezvousFileOfAKilledRunHoldsNobodyUpAndAStopEndsTheWait) {
  const std::string root = MakeRoot("root");
  {
    ChildProcess one(Arguments(root, 1, 2), root + "/r1.log");
    usleep(500 * 1000);  // into the wait; earlier is as good
    one.Signal(SIGTERM);
    EXPECT_EQ(one.Wait(), 76) << ReadText(root + "/r1.log");
  }
  // Of attempt 1 too, but nobody listens there: port 1 belongs to no program of this test.
  std::ofstream(root + "/rendezvous") << "1 127.0.0.1:1\n";
  ChildProcess one(Arguments(root, 1, 2), root + "/r1.log");
  usleep(500 * 1000);
  ChildProcess zero(Arguments(root, 0, 2), root + "/r0.log");
  EXPECT_EQ(zero.Wait(), 0) << ReadText(root + "/r0.log");
  EXPECT_EQ(one.Wait(), 0) << ReadText(root + "/r1.log");
}

}  // namespace
}  // namespace vitscale
