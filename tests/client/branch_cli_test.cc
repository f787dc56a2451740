// Branches of a run, and evaluations, against a fake coordinator.

#include <filesystem>
#include <fstream>

#include "client/output.h"
#include "client/progress.h"
#include "kernels/base/files.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_spec.h"
#include "tests/client/cli_fixture.h"
#include "tests/status_matchers.h"
#include "worker/checkpoint/manifest.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

// A run that the coordinator knows, with its canonical job file.
class BranchCliTest : public CliTest {
 protected:
  BranchCliTest() {
    const std::vector<std::string> more = {
        "evals=[{name: val, data: {format: synthetic, synthetic_images: 9}, every: 5 steps}]",
        "data.preprocess=flip_lr|value_range(0,1)", "resources.workers={min: 2, max: 2}",
        "batch.micro=8"};
    v1::Job& run = AddJob("longrun00000", "long", v1::JOB_STATE_RUNNING);
    *run.mutable_spec() = *Canonicalize(*ParseJobSpec(kJob, SpecFormat::kYaml, more));
    run.mutable_spec()->set_name("long");
    coordinator_.jobs["job1"].mutable_spec()->add_evals();
  }
  const v1::JobSpec& submitted() { return coordinator_.submitted.back().spec(); }
};

constexpr char kCheckpoint[] = "longrun00000/a0001.g0001.step_000000010";

TEST_F(BranchCliTest, SubmitFromTakesTheJobFileOfTheRunWithOverrides) {
  EXPECT_EQ(Run({"submit", "--from", kCheckpoint, "--set", "schedule.total=30 steps", "-q"}), 0)
      << err();
  EXPECT_EQ(submitted().from(), kCheckpoint);
  EXPECT_EQ(submitted().name(), "long-branch");
  EXPECT_EQ(submitted().schedule().total(), "30 steps");
  EXPECT_EQ(submitted().model().custom().width(), 32);
  EXPECT_EQ(submitted().batch().global(), 32);
  EXPECT_EQ(Run({"submit", "--from", "long", "--name", "short", "-q"}), 0) << err();
  EXPECT_EQ(submitted().from(), "long") << "the coordinator knows which is the newest";
  EXPECT_EQ(submitted().name(), "short");
}

TEST_F(BranchCliTest, SubmitFromWithAJobFileTakesThatFile) {
  EXPECT_EQ(Run({"submit", "-", "--from", kCheckpoint, "-q"}, kJob), 0) << err();
  EXPECT_EQ(submitted().from(), kCheckpoint);
  EXPECT_EQ(submitted().name(), "tiny");
}

TEST_F(BranchCliTest, SubmitSaysWhatIsMissing) {
  EXPECT_EQ(Run({"submit"}), 2);
  EXPECT_THAT(err(), HasSubstr("wanted a job file, or --from"));
  EXPECT_EQ(Run({"submit", "--from", "nobody"}), 3);
  EXPECT_THAT(err(), HasSubstr("give a job file, too"));
  EXPECT_EQ(Run({"submit", "--from", kCheckpoint, "--set", "schedule.total=10 steps"}), 2);
  EXPECT_THAT(err(), HasSubstr("schedule.total"));
  EXPECT_THAT(coordinator_.submitted, IsEmpty());
}

TEST_F(BranchCliTest, HelpTeachesOneLongRunWithCooldowns) {
  EXPECT_EQ(Run({"submit", "--help"}), 0);
  EXPECT_THAT(
      out(), AllOf(HasSubstr("--from"), HasSubstr("schedule.cooldown"), HasSubstr("One long run")));
}

TEST_F(BranchCliTest, EvaluateRunsTheEvaluationsOfTheRunAndPrintsWhatCameOut) {
  EXPECT_EQ(Run({"evaluate", "long"}), 0) << err();
  EXPECT_EQ(submitted().kind(), v1::JOB_KIND_EVALUATE);
  EXPECT_EQ(submitted().from(), "long");
  EXPECT_EQ(submitted().name(), "long-eval");
  EXPECT_EQ(submitted().resources().workers().max(), 2);
  EXPECT_FALSE(submitted().has_optimizer());
  EXPECT_EQ(submitted().batch().micro(), 8);
  ASSERT_EQ(submitted().evals_size(), 1);
  EXPECT_EQ(submitted().evals(0).preprocess(), "value_range(0,1)");
  EXPECT_THAT(Lines()[0], HasSubstr("EVALUATION  STEP  IMAGES"));
  EXPECT_THAT(Lines()[1], AllOf(HasSubstr("val"), HasSubstr("top1"), HasSubstr("87.50 %")));
  EXPECT_EQ(Run({"evaluate", "long", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json[0]["values"]["top1"], 0.875);
}

TEST_F(BranchCliTest, EvaluateHasTheExitCodeOfTheJob) {
  coordinator_.jobs["job1"].set_state(v1::JOB_STATE_FAILED);
  EXPECT_EQ(Run({"evaluate", "long"}), 1);
  coordinator_.jobs["job1"].set_state(v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Run({"evaluate", "long"}), 103);
  EXPECT_EQ(Run({"evaluate", "nobody"}), 3);
}

TEST_F(BranchCliTest, EvaluateTakesAnEvaluationFromItsFlags) {
  EXPECT_EQ(Run({"evaluate", kCheckpoint, "--workers", "3", "--detach", "--data",
                 "{format: synthetic, synthetic_images: 50}"}),
            0)
      << err();
  EXPECT_EQ(out(), "job1\n");
  EXPECT_EQ(submitted().resources().workers().min(), 3);
  EXPECT_EQ(submitted().evals(0).kind(), v1::EVAL_KIND_CLASSIFY);
  EXPECT_EQ(submitted().evals(0).data().synthetic_images(), 50);
  EXPECT_EQ(Run({"evaluate", kCheckpoint, "--shots", "1,5"}), 2);
  EXPECT_THAT(err(), HasSubstr("--shots: wanted --data, too"));
}

TEST_F(BranchCliTest, EvaluateTakesTheEvaluationsOfAFileAndTheModelOfTheCheckpoint) {
  EXPECT_EQ(Run({"evaluate", "long", "-", "--detach"},
                "evals: [{name: mine, data: {format: synthetic, synthetic_images: 7}}]\n"),
            0)
      << err();
  EXPECT_EQ(submitted().evals(0).name(), "mine");
  EXPECT_EQ(submitted().model().custom().width(), 32);
  EXPECT_EQ(Run({"evaluate", "long", "-", "--detach"}, "evals: [{nam: mine}]\n"), 2);
  EXPECT_THAT(err(), HasSubstr("did you mean \"name\"?"));
}

// An imported checkpoint, or one of a run without coordinator.
TEST_F(BranchCliTest, AFolderThatCanBeSeenFromHereTellsTheModelItself) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/elsewhere0000/a0000.g0000.step_000000000";
  std::filesystem::create_directories(path);
  CheckpointManifest manifest;
  manifest.job_id = "elsewhere0000";
  manifest.spec = kJob + std::string(
                             "evals: [{name: val, data: {format: synthetic, "
                             "synthetic_images: 9}}]\n");
  std::ofstream(path + "/manifest.json") << ManifestToJson(manifest);
  EXPECT_EQ(Run({"evaluate", path, "--detach"}), 0) << err();
  EXPECT_EQ(submitted().from(), std::filesystem::canonical(path).string());
  EXPECT_EQ(submitted().model().custom().width(), 32);
  v1::CheckpointInfo known;
  known.set_id("elsewhere0000/a0000.g0000.step_000000000");
  known.set_path("/another/place");  // a copy is not what it was copied from
  coordinator_.checkpoints = {known};
  EXPECT_EQ(Run({"evaluate", path, "--detach"}), 0) << err();
  EXPECT_EQ(submitted().from(), std::filesystem::canonical(path).string());
  coordinator_.checkpoints[0].set_path(std::filesystem::canonical(path).string());
  EXPECT_EQ(Run({"evaluate", path, "--detach"}), 0) << err();
  EXPECT_EQ(submitted().from(), known.id());
}

TEST_F(BranchCliTest, ImportedWeightsAreBranchedFromWithAJobFileOnly) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/elsewhere0000/a0000.g0000.step_000000000";
  std::filesystem::create_directories(path);
  CheckpointManifest manifest;
  manifest.job_id = "elsewhere0000";
  manifest.spec = kJob;
  manifest.weights_only = true;
  std::ofstream(path + "/manifest.json") << ManifestToJson(manifest);
  EXPECT_EQ(Run({"submit", "--from", path}), 2);
  EXPECT_THAT(err(), HasSubstr("no run is behind them: give a job file, too"));
  EXPECT_EQ(Run({"submit", "--from", path, "-"}, kJob), 0) << err();
}

TEST_F(BranchCliTest, ProgressAndSummaryOfABranchBeginWhereItBegan) {
  v1::Job& job = coordinator_.jobs["job1"];
  job.set_first_step(10);
  job.mutable_spec()->set_from(kCheckpoint);
  EXPECT_EQ(Run({"summary", "tiny"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr(kCheckpoint), HasSubstr("10 to 20")));
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_step(15);
  ProgressView view;
  view.job = job;
  EXPECT_THAT(ProgressLine(view, 200, false), HasSubstr(" 50 %  15/20"));
}
}  // namespace
}  // namespace vitscale
