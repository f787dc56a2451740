// Whole commands against a fake coordinator.

#include "client/cli.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <sstream>

#include "absl/strings/str_split.h"
#include "client/output.h"
#include "client/progress.h"
#include "kernels/base/files.h"
#include "nlohmann/json.hpp"
#include "proto/spec/fault.h"
#include "proto/spec/job_spec.h"
#include "tests/client/fake_control_client.h"
#include "tests/status_matchers.h"
#include "worker/checkpoint/manifest.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr char kJob[] = R"(
name: tiny
model: {custom: {patch: 4, width: 32, depth: 2, heads: 2, mlp_width: 64}, image_size: 16, channels: 1, classes: 4}
data: {train: {format: synthetic, synthetic_images: 1024}}
optimizer: {lr: 1e-3}
schedule: {total: 20 steps}
batch: {global: 32}
)";

class CliTest : public testing::Test {
 protected:
  CliTest() {
    AddJob("job1", "tiny", v1::JOB_STATE_SUCCEEDED);
    for (int step = 1; step <= 20; ++step) {
      v1::StepRecord record;
      record.set_step(step);
      record.set_images(step * 32);
      record.set_loss(2.0 / step);
      record.set_step_seconds(0.01);
      coordinator_.steps.push_back(record);
    }
    for (int n = 1; n <= 5; ++n) {
      v1::Event event;
      event.set_sequence(n);
      event.set_job_id("job1");
      event.set_kind("placed");
      event.set_message(absl::StrCat("event ", n));
      coordinator_.events.push_back(event);
      v1::LogLine line;
      line.set_sequence(n);
      line.set_rank(n % 2);
      line.set_text(absl::StrCat("line ", n));
      coordinator_.logs.push_back(line);
    }
    v1::EvalRecord eval;
    eval.set_name("val");
    eval.set_step(20);
    (*eval.mutable_values())["top1"] = 0.875;
    coordinator_.evals.push_back(eval);
  }

  v1::Job& AddJob(const std::string& id, const std::string& name, v1::JobState state) {
    v1::Job& job = coordinator_.jobs[id];
    job.set_id(id);
    job.mutable_spec()->set_name(name);
    job.set_state(state);
    job.set_step(20);
    job.set_total_steps(20);
    job.set_intent(v1::INTENT_RUN);
    return job;
  }

  int Run(std::vector<std::string> arguments, const std::string& input = "") {
    out_.str("");
    err_.str("");
    in_ = std::istringstream(input);
    Context context{.out = out_, .err = err_, .in = in_, .clock = clock_};
    return RunWith(context, std::move(arguments));
  }
  int RunWith(Context& context, std::vector<std::string> arguments) {
    context.out_is_terminal = terminal_;
    context.sleep = [this](absl::Duration d) {
      slept_.push_back(d);
      clock_.Advance(d);
    };
    context.environment = [this](const char* name) { return environment_[name]; };
    context.connect = [this](const std::string& address, absl::Duration) {
      address_ = address;
      return absl::StatusOr<std::unique_ptr<ControlClient>>(
          std::make_unique<FakeControlClient>(coordinator_));
    };
    return RunCli(arguments, context);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }
  std::vector<std::string> Lines() const { return absl::StrSplit(out(), '\n', absl::SkipEmpty()); }

  FakeCoordinator coordinator_;
  FakeClock clock_;
  std::ostringstream out_, err_;
  std::istringstream in_;
  std::map<std::string, std::string> environment_;
  std::vector<absl::Duration> slept_;
  std::string address_;
  bool terminal_ = false;
};

// ---- command line -------------------------------------------------------------------------------

TEST_F(CliTest, HelpTeachesWithExamplesAndGoesToStandardOutput) {
  EXPECT_EQ(Run({"--help"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("vitscale submit job.yaml"), HasSubstr("Exit codes"),
                           HasSubstr("VITSCALE_ADDRESS")));
  EXPECT_EQ(Run({"submit", "--help"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("Examples:"), HasSubstr("--idempotency-key")));
  EXPECT_EQ(Run({}), 0);
  EXPECT_THAT(out(), HasSubstr("submit"));
}

TEST_F(CliTest, UsageErrorsAreExitCode2OnStandardError) {
  EXPECT_EQ(Run({"lsit"}), 2);
  EXPECT_THAT(err(), HasSubstr("no command \"lsit\", did you mean \"list\"?"));
  EXPECT_EQ(Run({"get"}), 2);
  EXPECT_EQ(Run({"list", "--nonsense"}), 2);
  EXPECT_EQ(Run({"list", "-o", "xml"}), 2);
  EXPECT_EQ(Run({"list", "--timeout", "soon"}), 2);
  EXPECT_THAT(err(), HasSubstr("--timeout: was \"soon\""));
  EXPECT_EQ(Run({"list", "--state", "runing"}), 2);
  EXPECT_THAT(err(), AllOf(HasSubstr("wanted queued, "), HasSubstr("cancelled"),
                           HasSubstr("did you mean \"running\"?")));
  EXPECT_EQ(Run({"checkpoints"}), 2);
  EXPECT_THAT(out(), IsEmpty());
}

TEST_F(CliTest, ValuesOutOfRangeAreToldInWordsOfPeople) {
  for (const auto& [arguments, text] :
       std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"logs", "tiny", "--tail", "0"},
            "--tail: was \"0\", wanted a whole number from 1 to 1000000000"},
           {{"logs", "tiny", "--rank", "-1"}, "--rank: was \"-1\", wanted a whole number"},
           {{"list", "--limit", "many"},
            "--limit: was \"many\", wanted a whole number from 1 to 100000"},
           {{"plot", "tiny", "--x", "step"},
            "--x: was \"step\", wanted steps or images, did you mean \"steps\"?"}}) {
    EXPECT_EQ(Run(arguments), 2);
    EXPECT_THAT(err(), HasSubstr(text));
  }
}

TEST_F(CliTest, FormatsThatACommandDoesNotSpeakAreRefused) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"plan", "-", "-o", "yaml"},
                                             {"summary", "tiny", "-o", "csv"},
                                             {"version", "-o", "yaml"}}) {
    EXPECT_EQ(Run(arguments, kJob), 2) << arguments[0];
    EXPECT_THAT(err(), HasSubstr(absl::StrCat("which ", arguments[0], " does not speak, wanted ")));
    EXPECT_THAT(out(), IsEmpty());
  }
}

TEST_F(CliTest, HelpEndsInOneLineBreak) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"--help"}, {}, {"submit", "--help"}, {"checkpoints", "--help"}}) {
    EXPECT_EQ(Run(arguments), 0);
    EXPECT_THAT(out(), testing::EndsWith("\n"));
    EXPECT_THAT(out(), Not(testing::EndsWith("\n\n")));
  }
}

TEST_F(CliTest, AnEmptyValueOfEvaluateIsNoValue) {
  EXPECT_EQ(Run({"evaluate", "tiny", "--data", ""}), 2);
  EXPECT_THAT(err(), HasSubstr("--data: was \"\", wanted something"));
}

TEST_F(CliTest, NamesInErrorsDoNotSteerTheTerminal) {
  EXPECT_EQ(Harmless("a\x1b[31mb\nc\x7f"), "a\\x1b[31mb\nc\\x7f");
}

TEST_F(CliTest, AJobFileThatCannotBeReadIsAUsageError) {
  const TemporaryDirectory folder;
  EXPECT_EQ(Run({"submit", folder.path() + "/none"}), 2);
  EXPECT_THAT(err(), AllOf(HasSubstr("job file: "), HasSubstr("/none'")));
  EXPECT_EQ(Run({"submit", folder.path()}), 2);
  EXPECT_THAT(err(), HasSubstr("is a directory, not a regular file"));
  EXPECT_EQ(Run({"plan", folder.path() + "/none"}), 2);
}

TEST_F(CliTest, TheAddressComesFromFlagThenEnvironmentThenDefault) {
  Run({"list"});
  EXPECT_THAT(address_, testing::AnyOf(HasSubstr("unix:"), HasSubstr("127.0.0.1:7480")));
  environment_["VITSCALE_ADDRESS"] = "host:1";
  Run({"list"});
  EXPECT_EQ(address_, "host:1");
  Run({"list", "--address", "host:2"});
  EXPECT_EQ(address_, "host:2");
}

TEST_F(CliTest, StatusCodesBecomeExitCodes) {
  EXPECT_EQ(Run({"get", "nothing"}), 3);
  EXPECT_THAT(err(), HasSubstr("no job \"nothing\""));
  coordinator_.down = absl::UnavailableError("no coordinator at x");
  EXPECT_EQ(Run({"list"}), 4);
  coordinator_.down = absl::DeadlineExceededError("late");
  EXPECT_EQ(Run({"list"}), 124);
  coordinator_.down = absl::InternalError("broken");
  EXPECT_EQ(Run({"list"}), 1);
}

// ---- submit -------------------------------------------------------------------------------------

TEST_F(CliTest, SubmitSendsTheSpecWithOverridesAndPrintsTheIdAloneWhenQuiet) {
  EXPECT_EQ(
      Run({"submit", "-", "-q", "--set", "seed=7", "--name", "other", "--priority", "-5"}, kJob), 0)
      << err();
  EXPECT_EQ(out(), "job1\n");
  EXPECT_THAT(err(), IsEmpty());
  ASSERT_EQ(coordinator_.submitted.size(), 1u);
  const v1::SubmitJobRequest& request = coordinator_.submitted[0];
  EXPECT_EQ(request.spec().seed(), 7u);
  EXPECT_EQ(request.spec().name(), "other");
  EXPECT_EQ(request.spec().priority(), -5);
  EXPECT_THAT(
      request.request_id(),
      testing::MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
}

TEST_F(CliTest, SubmitReportsAllFaultsOnePerLineAndSendsNothing) {
  EXPECT_EQ(Run({"submit", "-"}, "modle: x\nbatch: {global: 0}\n"), 2);
  EXPECT_THAT(err(), AllOf(HasSubstr("standard input: job spec: "),
                           HasSubstr("\n  modle (line 1): unknown key"),
                           HasSubstr("\n  batch.global (line 2): was 0")));
  EXPECT_THAT(coordinator_.submitted, IsEmpty());
  EXPECT_EQ(Run({"submit", "/no/such/file.yaml"}), 2);
  EXPECT_THAT(err(), HasSubstr("/no/such/file.yaml"));
}

TEST_F(CliTest, FaultsFromTheCoordinatorArePrintedTheSameWay) {
  coordinator_.submit =
      FaultsToStatus("job spec", {{"a.b", "was 1, wanted 2", "", false}, {"c", "bad", "", false}});
  EXPECT_EQ(Run({"submit", "-"}, kJob), 2);
  EXPECT_THAT(err(), AllOf(HasSubstr("\n  a.b: was 1, wanted 2\n"), HasSubstr("\n  c: bad\n")));
}

TEST_F(CliTest, DryRunPrintsTheCanonicalSpecAndAsksForValidationOnly) {
  EXPECT_EQ(Run({"submit", "-", "--dry-run"}, kJob), 0);
  EXPECT_TRUE(coordinator_.submitted[0].validate_only());
  EXPECT_THAT(out(), HasSubstr("name: tiny"));
}

TEST_F(CliTest, AnIdempotencyKeyIsTheRequestIdAndIsNamedWhenItClashes) {
  coordinator_.submit = absl::AlreadyExistsError("used for another request");
  EXPECT_EQ(Run({"submit", "-", "--idempotency-key", "k1"}, kJob), 1);
  EXPECT_EQ(coordinator_.submitted[0].request_id(), "k1");
  EXPECT_THAT(err(), HasSubstr("idempotency key \"k1\""));
}

TEST_F(CliTest, SubmitWaitHasTheExitCodeOfTheJob) {
  EXPECT_EQ(Run({"submit", "-", "--wait"}, kJob), 0);
  coordinator_.jobs["job1"].set_state(v1::JOB_STATE_FAILED);
  EXPECT_EQ(Run({"submit", "-", "--follow"}, kJob), 1);
}

// ---- branches and evaluations
// --------------------------------------------------------------------

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

// ---- looking ------------------------------------------------------------------------------------

TEST_F(CliTest, ListSpeaksEveryFormat) {
  AddJob("job2", "other", v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Run({"list"}), 0);
  EXPECT_THAT(Lines()[0], HasSubstr("ID    NAME   STATE"));
  EXPECT_EQ(Lines().size(), 3u);
  EXPECT_EQ(Run({"list", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[0]["id"], "job1");
  EXPECT_EQ(json[1]["state"], "RUNNING");
  EXPECT_EQ(Run({"list", "-o", "yaml"}), 0);
  EXPECT_THAT(out(), HasSubstr("- id: job1\n"));
  EXPECT_EQ(Run({"list", "-o", "wide"}), 0);
  EXPECT_THAT(out(), HasSubstr("PRIORITY"));
  EXPECT_EQ(Run({"list", "-o", "csv"}), 0);
  EXPECT_THAT(out(), HasSubstr("job2,other,RUNNING"));
  EXPECT_EQ(Run({"list", "--state", "running", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).size(), 1u);
}

TEST_F(CliTest, ListPagesUpToItsLimitAndSaysThatThereIsMore) {
  for (int i = 0; i < 30; ++i) AddJob(absl::StrCat("k", 100 + i), "many", v1::JOB_STATE_QUEUED);
  EXPECT_EQ(Run({"list", "--limit", "10", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).size(), 10u);
  EXPECT_THAT(err(), HasSubstr("there are more"));
}

TEST_F(CliTest, GetShowsDetailsWithTheLastEventsAndJsonHasZeros) {
  EXPECT_EQ(Run({"get", "tiny"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("state        SUCCEEDED"), HasSubstr("event 5")));
  EXPECT_EQ(Run({"get", "job1", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["preemptions"], 0);
  EXPECT_EQ(json["step"], 20);
}

TEST_F(CliTest, WhySaysTheReason) {
  v1::Job& job = AddJob("job2", "waiting", v1::JOB_STATE_QUEUED);
  job.set_reason("waiting_for_workers");
  job.set_message("needs 2 workers, 1 is free");
  EXPECT_EQ(Run({"why", "waiting"}), 0);
  EXPECT_THAT(out(),
              HasSubstr("is QUEUED because of waiting_for_workers: needs 2 workers, 1 is free"));
}

TEST_F(CliTest, IntentsGoToEveryJobNamed) {
  AddJob("job2", "other", v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Run({"cancel", "job1", "other"}), 0);
  ASSERT_EQ(coordinator_.intents.size(), 2u);
  EXPECT_EQ(coordinator_.intents[1].intent(), v1::INTENT_CANCEL);
  EXPECT_NE(coordinator_.intents[0].request_id(), coordinator_.intents[1].request_id());
  EXPECT_EQ(Run({"resume", "job1"}), 0);
  EXPECT_EQ(coordinator_.intents.back().intent(), v1::INTENT_RUN);
  EXPECT_EQ(Run({"kill", "nothing", "job1"}), 3) << "the others are still done";
  EXPECT_EQ(coordinator_.intents.back().intent(), v1::INTENT_KILL);
}

// ---- watching -----------------------------------------------------------------------------------

TEST_F(CliTest, WaitReflectsTheJob) {
  EXPECT_EQ(Run({"wait", "tiny"}), 0);
  EXPECT_THAT(out(), IsEmpty());
  coordinator_.jobs["job1"].set_state(v1::JOB_STATE_FAILED);
  EXPECT_EQ(Run({"wait", "tiny"}), 1);
  coordinator_.jobs["job1"].set_state(v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Run({"wait", "tiny"}), 103);
  EXPECT_EQ(Run({"wait", "nothing"}), 3);
}

TEST_F(CliTest, WatchPrintsPlainLinesWhereThereIsNoTerminal) {
  EXPECT_EQ(Run({"watch", "tiny"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("event 1"), HasSubstr("step 20/20  loss 0.1000"),
                           HasSubstr("val at step 20: top1 87.50 %"),
                           HasSubstr("job job1 (tiny) SUCCEEDED"), Not(HasSubstr("\x1b"))));
}

TEST_F(CliTest, WatchDrawsABarOnATerminalAndClearsItAtTheEnd) {
  terminal_ = true;
  EXPECT_EQ(Run({"watch", "tiny"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("█"), HasSubstr("\r\x1b[K")));
  EXPECT_THAT(Lines().back(), HasSubstr("SUCCEEDED"));
}

TEST_F(CliTest, WatchAsJsonIsOneObjectALine) {
  EXPECT_EQ(Run({"watch", "tiny", "-o", "json"}), 0);
  int steps = 0;
  for (const std::string& line : Lines()) steps += nlohmann::json::parse(line).contains("step");
  EXPECT_EQ(steps, 20);
}

TEST_F(CliTest, WatchSurvivesARestartOfTheCoordinatorWithoutGapOrDuplicate) {
  coordinator_.repeat = 4;
  coordinator_.breaks = {{7, absl::UnavailableError("gone")},
                         {0, absl::UnavailableError("still gone")},
                         {8, absl::InternalError("stream reset")}};
  EXPECT_EQ(Run({"watch", "tiny", "-o", "json"}), 0) << err();
  std::vector<int> steps, events, evals;
  for (const std::string& line : Lines()) {
    const auto json = nlohmann::json::parse(line);
    if (json.contains("step")) steps.push_back(json["step"]["step"]);
    if (json.contains("event")) events.push_back(json["event"]["sequence"]);
    if (json.contains("eval")) evals.push_back(json["eval"]["step"]);
  }
  std::vector<int> all(20);
  std::iota(all.begin(), all.end(), 1);
  EXPECT_EQ(steps, all);
  EXPECT_THAT(events, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(evals, ElementsAre(20));
  EXPECT_EQ(coordinator_.watches.back().after_event(), 5);
  EXPECT_EQ(slept_.size(), 3u);
  EXPECT_THAT(err(), AllOf(HasSubstr("connection lost (gone)"), HasSubstr("connected again")));
}

TEST_F(CliTest, WaitingStopsAtTheTimeOut) {
  for (int i = 0; i < 1000; ++i) coordinator_.breaks.push_back({0, absl::UnavailableError("gone")});
  EXPECT_EQ(Run({"wait", "tiny", "--timeout", "20s"}), 124);
  absl::Duration slept;
  for (const absl::Duration d : slept_) slept += d;
  EXPECT_LE(slept, absl::Seconds(20));
  EXPECT_LE(*std::max_element(slept_.begin(), slept_.end()), absl::Seconds(5));
}

// The stream lasts as long as there is time, and ends a moment before the clock of the waiter.
TEST_F(CliTest, AWatchThatTimesOutSaysOnlyThat) {
  coordinator_.breaks = {{0, absl::DeadlineExceededError("no answer")}};
  coordinator_.on_watch = [this](absl::Duration limit) {
    clock_.Advance(limit - absl::Milliseconds(1));
  };
  EXPECT_EQ(Run({"watch", "tiny", "--timeout", "5s"}), 124);
  EXPECT_EQ(err(), "error: timed out while waiting\n");
}

TEST_F(CliTest, CompactedHistoryIsLeftOut) {
  coordinator_.breaks = {{2, absl::UnavailableError("gone")},
                         {0, absl::OutOfRangeError("compacted")}};
  EXPECT_EQ(Run({"wait", "tiny"}), 0) << err();
}

// ---- records ------------------------------------------------------------------------------------

TEST_F(CliTest, LogsPrintLinesAndFilterByRank) {
  EXPECT_EQ(Run({"logs", "tiny", "--rank", "1"}), 0);
  EXPECT_EQ(Lines().size(), 3u);
  EXPECT_THAT(Lines()[0], HasSubstr("[rank 1] line 1"));
  coordinator_.breaks = {{2, absl::UnavailableError("gone")}};
  coordinator_.repeat = 2;
  EXPECT_EQ(Run({"logs", "tiny", "-f"}), 0);
  EXPECT_EQ(Lines().size(), 5u) << out();
}

TEST_F(CliTest, LogsStepsPrintsEveryStepInEveryFormat) {
  EXPECT_EQ(Run({"logs", "tiny", "--steps", "-o", "json"}), 0);
  ASSERT_EQ(Lines().size(), 20u);
  EXPECT_EQ(nlohmann::json::parse(Lines()[19])["step"], 20);
  EXPECT_EQ(Run({"logs", "tiny", "--steps", "-o", "csv"}), 0);
  ASSERT_EQ(Lines().size(), 21u) << "pages share one head";
  EXPECT_THAT(Lines()[0], HasSubstr("step,images,loss,accuracy,learning_rate"));
  EXPECT_THAT(Lines()[3], HasSubstr("3,96,0.6666666666666666,"));
  EXPECT_EQ(Run({"logs", "tiny", "--steps", "--tail", "5"}), 0);
  EXPECT_EQ(Lines().size(), 6u);
}

TEST_F(CliTest, EventsCanBeFollowed) {
  EXPECT_EQ(Run({"events", "tiny", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).size(), 5u);
  coordinator_.breaks = {{2, absl::UnavailableError("gone")}};
  EXPECT_EQ(Run({"events", "tiny", "-f", "--timeout", "3s"}), 124);
  EXPECT_EQ(Lines().size(), 5u) << out();
}

TEST_F(CliTest, PlotAndSummaryWriteAPicture) {
  TemporaryDirectory folder;
  const std::string path = folder.path() + "/loss.svg";
  EXPECT_EQ(Run({"plot", "tiny", "--output", path}), 0) << err();
  EXPECT_EQ(out(), path + "\n");
  std::ifstream in(path);
  const std::string svg((std::istreambuf_iterator<char>(in)), {});
  EXPECT_THAT(svg, HasSubstr("<polyline"));
  EXPECT_EQ(Run({"plot", "tiny", "-o", "-"}), 0);
  EXPECT_EQ(out(), svg);
  EXPECT_EQ(Run({"plot", "tiny", "--output", folder.path() + "/no/where.svg"}), 3);
  EXPECT_EQ(Run({"summary", "tiny", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  for (const char* key : {"top1", "loss", "images_per_second", "training_seconds", "checkpoint"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["top1"], 0.875);
}

TEST_F(CliTest, EveryLossSaysOfWhichStepsItIs) {
  for (int step = 21; step <= 200; ++step) {
    v1::StepRecord record;
    record.set_step(step);
    record.set_loss(2.0 / step);
    coordinator_.steps.push_back(record);
  }
  v1::Job& job = coordinator_.jobs["job1"];
  job.set_step(200);
  *job.mutable_last_step() = coordinator_.steps.back();
  EXPECT_EQ(Run({"summary", "tiny"}), 0);
  EXPECT_THAT(out(), HasSubstr("training loss    0.01003 (mean of the last 2 steps; the last one "
                               "alone: 0.01000)"));
  EXPECT_EQ(Run({"summary", "tiny", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  EXPECT_DOUBLE_EQ(json["loss"], (2.0 / 199 + 2.0 / 200) / 2);
  EXPECT_EQ(json["loss_mean_steps"], 2);
  EXPECT_EQ(json["loss_last_step"], 0.01);
  EXPECT_EQ(Run({"list"}), 0);
  EXPECT_THAT(Lines()[0], HasSubstr("LAST_LOSS"));
  EXPECT_EQ(Run({"list", "--help"}), 0);
  EXPECT_THAT(out(), HasSubstr("LAST_LOSS is the training loss of the last step alone"));
  EXPECT_EQ(Run({"get", "tiny"}), 0);
  EXPECT_THAT(out(), HasSubstr("last step    loss 0.01"));
  EXPECT_EQ(Run({"watch", "tiny"}), 0);
  EXPECT_THAT(Lines().back(), HasSubstr("loss of the last step 0.01000"));
}

TEST_F(CliTest, CheckpointsAreListedAndPinned) {
  for (const bool deleted : {false, true}) {
    v1::CheckpointInfo info;
    info.set_id(deleted ? "job1/old" : "job1/new");
    info.set_deleted(deleted);
    coordinator_.checkpoints.push_back(info);
  }
  EXPECT_EQ(Run({"checkpoints", "list", "tiny"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("job1/new"), Not(HasSubstr("job1/old"))));
  EXPECT_EQ(Run({"checkpoints", "list", "tiny", "--deleted"}), 0);
  EXPECT_THAT(out(), HasSubstr("job1/old"));
  EXPECT_EQ(Run({"checkpoints", "pin", "job1/new"}), 0);
  EXPECT_TRUE(coordinator_.pins[0].pinned());
  EXPECT_EQ(Run({"checkpoints", "unpin", "job1/new"}), 0);
  EXPECT_FALSE(coordinator_.pins[1].pinned());
}

TEST_F(CliTest, WorkersAreListedDrainedAndReleased) {
  v1::Worker worker;
  worker.set_id("w0");
  worker.set_state(v1::WORKER_STATE_IDLE);
  coordinator_.workers.push_back(worker);
  EXPECT_EQ(Run({"workers"}), 0);
  EXPECT_THAT(out(), HasSubstr("w0  IDLE"));
  EXPECT_EQ(Run({"workers", "list", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())[0]["state"], "IDLE");
  EXPECT_EQ(Run({"workers", "drain", "w0"}), 0);
  EXPECT_TRUE(coordinator_.updates[0].drain());
  EXPECT_EQ(Run({"workers", "drain", "w0", "--undo"}), 0);
  EXPECT_FALSE(coordinator_.updates[1].drain());
  EXPECT_EQ(coordinator_.updates[1].action_case(), v1::UpdateWorkerRequest::kDrain);
  EXPECT_EQ(Run({"workers", "release", "w0"}), 0);
  EXPECT_TRUE(coordinator_.updates[2].release());
}

TEST_F(CliTest, WorkersShowTheirCardsAndWhyOneTakesNothing) {
  v1::Worker cpu, card;
  cpu.set_id("w0");
  cpu.set_state(v1::WORKER_STATE_IDLE);
  cpu.mutable_device()->set_kind(v1::DEVICE_CPU);
  cpu.mutable_device()->set_name("cpu0");
  card.set_id("w1");
  card.set_state(v1::WORKER_STATE_DIRTY);
  card.set_reason("foreign_process");
  card.mutable_device()->set_kind(v1::DEVICE_CUDA);
  card.mutable_device()->set_name("cuda0");
  card.mutable_device()->set_model("NVIDIA H100 80GB HBM3");
  card.mutable_device()->set_driver("580.82.07");
  card.mutable_device()->set_memory_bytes(int64_t{80} << 30);
  card.mutable_device_use()->set_free_bytes(int64_t{8} << 30);
  card.mutable_device_use()->set_dirty("process 4711 holds 71.3 GB of it");
  coordinator_.workers = {cpu};
  EXPECT_EQ(Run({"workers"}), 0);
  EXPECT_THAT(out(), Not(HasSubstr("CARD"))) << "where there is none";
  coordinator_.workers.push_back(card);
  EXPECT_EQ(Run({"workers"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("CARD"), HasSubstr("w1  DIRTY"),
                           HasSubstr("NVIDIA H100 80GB HBM3"), HasSubstr("8.00 GiB of 80.0 GiB")));
  EXPECT_EQ(Run({"workers", "list", "-o", "wide"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("580.82.07"),
                           HasSubstr("foreign_process: process 4711 holds 71.3 GB of it")));
  EXPECT_EQ(Run({"workers", "list", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())[1]["state"], "DIRTY");
}

// ---- without a coordinator ----------------------------------------------------------------------

TEST_F(CliTest, PlanNeedsNoCoordinatorAndCountsParametersToTheDigit) {
  coordinator_.down = absl::UnavailableError("gone");
  EXPECT_EQ(Run({"plan", "--variants", "--classes", "29593", "-o", "csv"}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("g/14,1408,40,6144,16,256,1078144921,"),
                           HasSubstr("G/14,1664,48,8192,16,256,1930404761,")));
  EXPECT_EQ(Run({"plan", "-"}, kJob), 0) << err();
  EXPECT_THAT(out(), HasSubstr("parameters"));
  EXPECT_EQ(Run({"plan", "-", "-o", "json", "--workers", "1,4"}, kJob), 0);
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["workers"].size(), 2u);
  EXPECT_GT(json["parameters"], 0);
  EXPECT_EQ(Run({"plan", "-", "--memory", "1Ki"}, kJob), 1);
  EXPECT_EQ(Run({"plan"}), 2);
}

TEST_F(CliTest, PlanForACardTellsItsMemoryFromTheHosts) {
  const std::vector<std::string> card = {"plan",  "-",
                                         "--set", "resources.device=cuda",
                                         "--set", "model={variant: G/14, classes: 29593}"};
  const auto plan = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = card;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments, kJob);
  };
  ASSERT_EQ(plan({"--memory", "80Gi", "-o", "json"}), 0) << err();
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["memory_bytes"], json["card_bytes"]);
  EXPECT_GT(json["host_bytes"], json["checkpoint_bytes"]);
  EXPECT_EQ(json["recompute"], "none");
  EXPECT_EQ(plan({"--memory", "16Gi"}), 1);
  EXPECT_THAT(err(), HasSubstr("smallest change that fits: a smaller model, or a card with"));
}

TEST_F(CliTest, PlanTellsTimesFromTheRatesOfAProbe) {
  const TemporaryDirectory folder;
  const std::string rates = folder.path() + "/rates.txt";
  std::ofstream(rates) << "vitscale-rates 1\ndevice some CPU\nthreads 2\n"
                          "memory_bytes_per_second 1e10\nceiling bf16 1e11\n"
                          "op bf16 Linear 32 1e10\nwire_bytes_per_second 1e9\n";
  ASSERT_EQ(Run({"plan", "-", "--rates", rates.c_str(), "--workers", "1,2"}, kJob), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("some CPU, 2 threads"), HasSubstr("efficiency 100.0 %"),
                           HasSubstr("20 steps in ")));
  ASSERT_EQ(Run({"plan", "-", "-o", "json", "--rates", rates.c_str(), "--workers", "1,2",
                 "--wire-bytes-per-second", "1k"},
                kJob),
            0)
      << err();
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["rates_of"], "some CPU");
  EXPECT_EQ(json["workers"][0]["total_steps"], 20);
  EXPECT_GT(json["workers"][0]["step_seconds"], 0);
  EXPECT_LT(json["workers"][1]["efficiency"], 0.5);  // a thousand bytes a second
  EXPECT_EQ(Run({"plan", "-", "--rates", "/no/such/rates"}, kJob), 2);
  EXPECT_THAT(err(), AllOf(HasSubstr("--rates"), HasSubstr("vitscale-bench probe")));
  std::ofstream(rates) << "nonsense";
  EXPECT_EQ(Run({"plan", "-", "--rates", rates.c_str()}, kJob), 2);
  EXPECT_THAT(err(), HasSubstr("line 1"));
}

// Table 2 of arXiv 2106.04560: parameters in millions, GFLOPs of one image at 224 and 384.
TEST_F(CliTest, PlanVariantsPrintsThePapersTableToTheDigit) {
  constexpr struct {
    const char *name, *millions, *gf_224, *gf_384;
  } kPaper[] = {{"s/28", "5.4", "0.7", "2.0"},      {"s/16", "5.0", "2.2", "7.8"},
                {"S/32", "22", "2.3", "6.9"},       {"Ti/16", "5.5", "2.5", "9.5"},
                {"B/32", "87", "8.7", "26.0"},      {"S/16", "22", "9.2", "31.2"},
                {"B/28", "87", "11.3", "30.5"},     {"B/16", "86", "35.1", "111.3"},
                {"L/16", "303", "122.9", "382.8"},  {"g/14", "1011", "533.1", "1596.4"},
                {"G/14", "1843", "965.3", "2859.9"}};
  for (const char* size : {"224", "256"}) {  // of the job at hand; the paper's columns stay
    ASSERT_EQ(Run({"plan", "--variants", "--image-size", size}), 0) << err();
    const std::vector<std::string> lines = absl::StrSplit(out(), '\n');
    for (const auto& row : kPaper) {
      int seen = 0;
      for (const std::string& line : lines) {
        const std::vector<std::string> cells = absl::StrSplit(line, ' ', absl::SkipEmpty());
        if (cells.size() < 3 || cells[0] != row.name) continue;
        ++seen;
        EXPECT_THAT(std::vector<std::string>(cells.end() - 3, cells.end()),
                    testing::ElementsAre(row.millions, row.gf_224, row.gf_384))
            << line;
      }
      EXPECT_EQ(seen, 1) << row.name;
    }
  }
  ASSERT_EQ(Run({"plan", "--variants", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  const auto largest = std::find_if(json.begin(), json.end(),
                                    [](const auto& row) { return row["variant"] == "G/14"; });
  ASSERT_NE(largest, json.end());
  EXPECT_EQ((*largest)["body_parameters"], 1842772352);
}

TEST_F(CliTest, ValidateSaysWhatIsWrongOrPrintsTheCanonicalForm) {
  EXPECT_EQ(Run({"validate", "-", "--print"}, kJob), 0) << err();
  EXPECT_THAT(out(), HasSubstr("pool: map"));
  EXPECT_EQ(Run({"validate", "-", "--set", "model.classes=0"}, kJob), 2);
  EXPECT_THAT(err(), HasSubstr("model.classes (--set): was 0"));
}

TEST_F(CliTest, CompletionKnowsEveryCommand) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    EXPECT_EQ(Run({"completion", shell}), 0);
    for (const char* word : {"submit", "watch", "unpin", "drain", "idempotency-key", "variants"}) {
      EXPECT_THAT(out(), HasSubstr(word)) << shell;
    }
  }
  EXPECT_EQ(Run({"completion", "tcsh"}), 2);
}

TEST_F(CliTest, VersionShowsBothSidesAndWorksWithoutACoordinator) {
  EXPECT_EQ(Run({"version"}), 0);
  EXPECT_THAT(out(),
              AllOf(HasSubstr("client 0.1.0"), HasSubstr("server 9.9.9"), HasSubstr("term 4")));
  coordinator_.down = absl::UnavailableError("gone");
  EXPECT_EQ(Run({"version"}), 0);
  EXPECT_THAT(out(), HasSubstr("client 0.1.0"));
  EXPECT_THAT(err(), HasSubstr("gone"));
}

}  // namespace
}  // namespace vitscale
