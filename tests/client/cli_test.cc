// Command lines and submitting against a fake coordinator.

#include "client/output.h"
#include "kernels/base/files.h"
#include "proto/spec/fault.h"
#include "proto/spec/job_spec.h"
#include "tests/client/cli_fixture.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// ---- command line -------------------------------------------------------------------------------

TEST_F(CliTest, HelpTeachesWithExamplesAndGoesToStandardOutput) {
  EXPECT_EQ(Run({"--help"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("vitscale submit job.yaml"), HasSubstr("Exit codes"),
                           HasSubstr("VITSCALE_ADDRESS")));
  EXPECT_EQ(Run({"submit", "--help"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("Examples:"), HasSubstr("--idempotency-key")));
  EXPECT_EQ(Run({}), 0);
  EXPECT_THAT(out(), HasSubstr("submit"));
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_THAT(out(), HasSubstr("vitscale 0."));
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
  EXPECT_EQ(Run({"list", "--label", "team"}), 2);
  EXPECT_THAT(err(), HasSubstr("--label: was \"team\", wanted key=value"));
  EXPECT_EQ(Run({"-o", "json", "plot", "tiny"}), 2);
  EXPECT_THAT(err(), HasSubstr("which plot does not speak, wanted table or wide"));
  EXPECT_EQ(Run({"workers", "drain", "w0", "-o", "csv"}), 2);
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
                                             {"version", "-o", "yaml"},
                                             {"get", "tiny", "-o", "csv"},
                                             {"why", "tiny", "-o", "json"},
                                             {"watch", "tiny", "-o", "yaml"},
                                             {"cancel", "tiny", "-o", "csv"},
                                             {"submit", "-", "-o", "csv"},
                                             {"logs", "tiny", "-o", "csv"},
                                             {"validate", "-", "-o", "csv"}}) {
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
  coordinator_.submit = absl::AlreadyExistsError("request id 'k1' was used with another request");
  EXPECT_EQ(Run({"submit", "-", "--idempotency-key", "k1"}, kJob), 1);
  EXPECT_EQ(coordinator_.submitted[0].request_id(), "k1");
  EXPECT_EQ(err(),
            "error: --idempotency-key: \"k1\" was used for another job within the last 7 days\n");
}

TEST_F(CliTest, SubmitSaysForWhichWorkersTheJobIsPlanned) {
  const std::string words = "waits for workers; batch.micro 32 fits 2 cpu workers (62.8 GiB)";
  coordinator_.jobs["job1"].set_message(words);
  EXPECT_EQ(Run({"submit", "-"}, kJob), 0);
  EXPECT_THAT(err(), HasSubstr(words + "\nwatch it:  vitscale watch job1\n"));
  EXPECT_EQ(Run({"submit", "-", "--dry-run"}, kJob), 0);
  EXPECT_THAT(err(), HasSubstr(words));
  EXPECT_THAT(out(), testing::Not(HasSubstr(words))) << "that is the job file alone";
  EXPECT_EQ(Run({"submit", "-", "-q"}, kJob), 0);
  EXPECT_THAT(err(), testing::Not(HasSubstr(words)));
}

TEST_F(CliTest, SubmitWaitHasTheExitCodeOfTheJob) {
  EXPECT_EQ(Run({"submit", "-", "--wait"}, kJob), 0);
  coordinator_.jobs["job1"].set_state(v1::JOB_STATE_FAILED);
  EXPECT_EQ(Run({"submit", "-", "--follow"}, kJob), 1);
}
}  // namespace
}  // namespace vitscale
