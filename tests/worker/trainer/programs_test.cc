// The programs vitscale-train and vitscale-trainer as processes: kills, signals, exit codes, the
// agent's end of the link.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/child_process.h"
#include "tests/worker/trainer/test_gang.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/link/channel.h"
#include "worker/link/codec.h"
#include "worker/trainer/standalone.h"

namespace vitscale {
namespace {

using link::Stage;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr char kShort[] = "--set=schedule.warmup=1 steps";  // of runs of a few steps

class ProgramsTest : public ::testing::Test {
 protected:
  ProgramsTest() {
    std::ofstream(Path("job.yaml")) << TinyJob({{"checkpoint", "{dir: runs, every: 15 steps}"}});
  }

  std::string Path(const std::string& name) const {
    return absl::StrCat(folder_.path(), "/", name);
  }

  std::vector<std::string> Arguments(const std::string& root, int rank, int ranks,
                                     const std::string& faults = "") {
    std::vector<std::string> arguments = {VITSCALE_TRAIN,
                                          Path("job.yaml"),
                                          absl::StrCat("--checkpoint-root=", root),
                                          absl::StrCat("--data-root=", root),
                                          absl::StrCat("--rank=", rank),
                                          absl::StrCat("--world-size=", ranks),
                                          absl::StrCat("--rendezvous=", root, "/rendezvous"),
                                          "--threads=1"};
    if (rank == 0) arguments.push_back(absl::StrCat("--steps-csv=", root, "/steps.csv"));
    if (!faults.empty()) arguments.push_back(absl::StrCat("--faults=", faults));
    return arguments;
  }
  // Both ranks until they end; exit codes.
  std::pair<int, int> TrainTwo(const std::string& root, const std::string& faults_of_1 = "") {
    ChildProcess zero(Arguments(root, 0, 2), root + "/r0.log");
    ChildProcess one(Arguments(root, 1, 2, faults_of_1), root + "/r1.log");
    const int second = one.Wait();
    return {zero.Wait(), second};
  }
  // One rank alone, with a new log.
  int TrainOne(const std::string& root, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = Arguments(root, 0, 1);
    for (const std::string& flag : more) {
      if (absl::StartsWith(flag, "--steps-csv")) arguments.erase(arguments.end() - 1);
      arguments.push_back(flag);
    }
    (void)PosixFileSystem().Remove(root + "/log");
    return ChildProcess(arguments, root + "/log").Wait();
  }
  std::string MakeRoot(const std::string& name) {
    EXPECT_THAT(PosixFileSystem().MakeDirectory(Path(name)), IsOk());
    return Path(name);
  }
  std::string NewestId(const std::string& root) {
    const auto store =
        CheckpointStore::Open(PosixFileSystem(), root + "/runs", StandaloneJobId("tiny"));
    const auto usable = store->Usable();
    return usable.ok() && !usable->empty() ? usable->front().id : "";
  }

  const TemporaryDirectory folder_;
};

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

TEST_F(ProgramsTest, AFaultIsToldOnce) {
  const std::string root = MakeRoot("root");
  ASSERT_EQ(TrainOne(root, {"--set=schedule.total=15 steps", kShort}), 0)
      << ReadText(root + "/log");
  EXPECT_EQ(TrainOne(root, {"--set=model.custom.width=64", kShort}), 78);
  const std::vector<std::string> parts =
      absl::StrSplit(ReadText(root + "/log"), "it is of another model");
  EXPECT_THAT(parts, SizeIs(2)) << ReadText(root + "/log");
}

TEST_F(ProgramsTest, PathsOutsideTheRootsAreToldByTheirField) {
  const std::string root = MakeRoot("root");
  EXPECT_EQ(TrainOne(root, {"--set=checkpoint.dir=/tmp/elsewhere"}), 84);
  EXPECT_THAT(ReadText(root + "/log"),
              HasSubstr("checkpoint.dir: '/tmp/elsewhere' lies below none of the roots"));
  EXPECT_EQ(
      TrainOne(root, {"--set=data.train={format: idx, images: /dev/null, labels: /dev/null}"}), 80);
  EXPECT_THAT(ReadText(root + "/log"),
              HasSubstr("data.train: images: '/dev/null' lies below none of the roots"));
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

TEST_F(ProgramsTest, WrongFlagsAndJobFilesAreExitCode2WithOneSentence) {
  const std::string root = MakeRoot("root");
  const auto fails_with = [&](std::vector<std::string> more, const std::string& text) {
    std::vector<std::string> arguments = Arguments(root, 0, 1);
    arguments.insert(arguments.end(), more.begin(), more.end());
    const std::string log = root + "/log";
    (void)PosixFileSystem().Remove(log);
    EXPECT_EQ(ChildProcess(arguments, log).Wait(), 2) << text;
    EXPECT_THAT(ReadText(log), HasSubstr(text));
  };
  fails_with({"--set=batch.globl=3"}, "globl");
  fails_with({"--set=batch.global=0"}, "batch.global");
  fails_with({"--no-such-flag"}, "no-such-flag");
  fails_with({"--checkpoint-root=/nonexistent"}, "/nonexistent");
  for (const auto& [flag, text] : std::vector<std::pair<std::string, std::string>>{
           {"--threads=0", "--threads: was \"0\", wanted a whole number from 1 to 1024"},
           {"--threads=-3", "--threads: was \"-3\""},
           {"--world-size=two", "--world-size: was \"two\", wanted a whole number"},
           {"--rendezvous-timeout=-1", "--rendezvous-timeout: was \"-1\", wanted a number above 0"},
           {"--rendezvous=foo",
            "--rendezvous: was \"foo\", wanted host:port, or the path of a file"},
           {"--data-address=203.0.113.9", "--data-address: "},
           {"--instruction-set=avx",
            "--instruction-set: was \"avx\", wanted avx2, avx512 or avx512_bf16"}}) {
    const std::string log = root + "/flags.log";
    (void)PosixFileSystem().Remove(log);
    EXPECT_EQ(ChildProcess({VITSCALE_TRAIN, Path("job.yaml"), flag}, log).Wait(), 2) << flag;
    EXPECT_THAT(ReadText(log), HasSubstr(text));
  }
}

// ---- the child of an agent ----

class TrainerProgramTest : public ProgramsTest {
 protected:
  TrainerProgramTest() {
    auto pair = *link::MakeSocketPair();
    channel_ = std::make_unique<link::Channel>(std::move(pair.first));
    program_ = std::make_unique<ChildProcess>(
        std::vector<std::string>{VITSCALE_TRAINER,
                                 absl::StrCat("--link-fd=", link::kTrainerLinkFd)},
        Path("log"), pair.second.get());
    const auto job = ParseJobConfig(TinyJob(), "tiny.yaml");
    desired_.job_id = "job000000000";
    desired_.attempt = 1;
    desired_.spec_bytes = job->canonical_bytes;
    desired_.members = {{0, "w0", "", ""}};
    desired_.lineage = 1;
    desired_.purpose = link::Purpose::kTrain;
  }

  void Send(Stage stage, int64_t generation) {
    link::TrainerOrder order;
    desired_.stage = stage;
    desired_.generation = generation;
    order.desired = desired_;
    if (!std::exchange(setup_sent_, true)) {
      order.setup = link::TrainerSetup{"w0",        "cpu0", 1, {folder_.path()}, {folder_.path()},
                                       "127.0.0.1", "",     ""};
    }
    ASSERT_THAT(channel_->Send(link::EncodeOrder(order)), IsOk());
  }
  // Reads reports until one fits.
  bool Await(const std::function<bool(const link::ObservedState&)>& fits) {
    while (true) {
      const auto frame = channel_->Receive(absl::Seconds(60));
      if (!frame.ok()) return false;
      const auto report = link::DecodeReport(*frame);
      if (!report.ok()) return false;
      for (const link::SpooledRecord& record : report->records) records_.push_back(record);
      if (report->metrics) metrics_ = *report->metrics;
      if (report->observed && fits(*report->observed)) return true;
    }
  }
  bool AwaitStage(Stage stage) {
    return Await([stage](const link::ObservedState& observed) { return observed.stage == stage; });
  }

  std::unique_ptr<link::Channel> channel_;
  std::unique_ptr<ChildProcess> program_;
  link::DesiredState desired_;
  bool setup_sent_ = false;
  std::vector<link::SpooledRecord> records_;
  link::TrainerMetrics metrics_;
};

TEST_F(TrainerProgramTest, GoesThroughTheStagesReportsEveryStepAndLeavesWhenTold) {
  Send(Stage::kPrepare, 0);
  ASSERT_TRUE(AwaitStage(Stage::kPrepare)) << ReadText(Path("log"));
  Send(Stage::kForm, 1);
  ASSERT_TRUE(AwaitStage(Stage::kForm));
  desired_.source = link::Source{};
  desired_.source->kind = link::Source::Kind::kInitialise;
  Send(Stage::kGo, 1);
  ASSERT_TRUE(Await([](const link::ObservedState& observed) { return observed.finished; }))
      << ReadText(Path("log"));
  Send(Stage::kExit, 1);
  EXPECT_EQ(program_->Wait(), 0) << ReadText(Path("log"));
  int64_t next = 1;
  for (const link::SpooledRecord& record : records_) {
    const auto* step = std::get_if<link::StepRecord>(&record.record);
    if (step != nullptr) {
      EXPECT_EQ(step->step, next++);
    }
  }
  EXPECT_EQ(next, 61);
  EXPECT_EQ(metrics_.images_total, 60 * 64);
  EXPECT_GT(metrics_.flops_per_second, 0);
  EXPECT_GT(metrics_.goodput.productive, 0);
}

TEST_F(TrainerProgramTest, DiesWithItsAgent) {
  Send(Stage::kPrepare, 0);
  ASSERT_TRUE(AwaitStage(Stage::kPrepare));
  channel_.reset();
  EXPECT_EQ(program_->Wait(), 85);
}

TEST_F(TrainerProgramTest, IgnoresSigtermAndSigint) {
  Send(Stage::kPrepare, 0);
  ASSERT_TRUE(AwaitStage(Stage::kPrepare));
  program_->Signal(SIGTERM);
  program_->Signal(SIGINT);
  Send(Stage::kForm, 1);
  EXPECT_TRUE(AwaitStage(Stage::kForm));
  desired_.kill = true;
  Send(Stage::kExit, 1);
  EXPECT_EQ(program_->Wait(), 76);
}

TEST_F(TrainerProgramTest, GarbageOnTheLinkEndsIt) {
  ASSERT_THAT(channel_->Send("\xff\xff\xff\xff"), IsOk());
  EXPECT_EQ(program_->Wait(), 85);
}

// No machine has a thousand cards, and this one may have no driver, or no plugin at all.
TEST_F(ProgramsTest, ACardThatIsNotThereIsOneLineAndTheExitCodeOfDevices) {
  const std::string root = MakeRoot("root");
  EXPECT_EQ(TrainOne(root, {"--device=cuda:1000"}), 83);
  const std::string log = ReadText(root + "/log");
  EXPECT_THAT(log, StartsWith("vitscale-train: "));
  EXPECT_THAT(log, AnyOf(HasSubstr("cuda:1000: plugin libvitscale_cuda.so: not found"),
                         HasSubstr("no CUDA device: ")));
  EXPECT_EQ(log.find('\n'), log.size() - 1) << log;
}

// A copy of the program elsewhere has no plugin beside it.
TEST_F(ProgramsTest, WithoutAPluginOneLineSaysWhereItWasLookedFor) {
  const std::string root = MakeRoot("root"), program = VITSCALE_TRAIN;
  const std::string bin = program.substr(0, program.rfind('/'));
  ASSERT_EQ(setenv("LD_LIBRARY_PATH", (bin.substr(0, bin.rfind('/')) + "/lib").c_str(), 1), 0);
  ASSERT_THAT(PosixFileSystem().MakeDirectory(root + "/bin"), IsOk());
  std::filesystem::copy_file(program, root + "/bin/vitscale-train");
  std::vector<std::string> arguments = Arguments(root, 0, 1);
  arguments[0] = root + "/bin/vitscale-train";
  arguments.push_back("--device=cuda");
  EXPECT_EQ(ChildProcess(arguments, root + "/log").Wait(), 83);
  unsetenv("LD_LIBRARY_PATH");
  EXPECT_THAT(ReadText(root + "/log"),
              HasSubstr(absl::StrCat("cuda:0: plugin libvitscale_cuda.so: not found; looked for ",
                                     root, "/lib/libvitscale_cuda.so")));
}

TEST(TrainerProgramUsageTest, IsNotStartedByHand) {
  const TemporaryDirectory folder;
  const std::string log = folder.path() + "/log";
  EXPECT_EQ(ChildProcess({VITSCALE_TRAINER}, log).Wait(), 2);
  EXPECT_THAT(ReadText(log), HasSubstr("vitscale-train"));
  EXPECT_EQ(ChildProcess({VITSCALE_TRAINER, "--help"}, log).Wait(), 0);
}

}  // namespace
}  // namespace vitscale
