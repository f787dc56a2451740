// vitscale-trainer as a process, with the agent's end of the link.

#include <signal.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/trainer/programs_fixture.h"
#include "worker/link/channel.h"
#include "worker/link/codec.h"

namespace vitscale {
namespace {

using link::Stage;
using ::testing::HasSubstr;

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

TEST(TrainerProgramUsageTest, IsNotStartedByHand) {
  const TemporaryDirectory folder;
  const std::string log = folder.path() + "/log";
  EXPECT_EQ(ChildProcess({VITSCALE_TRAINER}, log).Wait(), 2);
  EXPECT_THAT(ReadText(log), HasSubstr("vitscale-train"));
  EXPECT_EQ(ChildProcess({VITSCALE_TRAINER, "--help"}, log).Wait(), 0);
}

}  // namespace
}  // namespace vitscale
