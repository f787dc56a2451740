// Looking at jobs and watching them, against a fake coordinator.

#include <csignal>
#include <numeric>

#include "client/interrupt.h"
#include "client/output.h"
#include "nlohmann/json.hpp"
#include "tests/client/cli_fixture.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

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
TEST_F(CliTest, ATimeOutSaysWhereTheJobStandsAndThatItGoesOn) {
  coordinator_.on_watch = [this](absl::Duration limit) {
    clock_.Advance(limit - absl::Milliseconds(1));
  };
  v1::Job& job = AddJob("job2", "run", v1::JOB_STATE_RUNNING);
  coordinator_.breaks = {{0, absl::DeadlineExceededError("no answer")}};
  EXPECT_EQ(Run({"watch", "run", "--timeout", "5s"}), 124);
  EXPECT_EQ(err(),
            "error: timed out while waiting; job job2 (run) is RUNNING; the job goes on: vitscale "
            "watch job2\n");
  job.set_state(v1::JOB_STATE_QUEUED);
  job.set_reason("not_enough_workers");
  job.set_message("needs 4 workers of one class; 1 can be used");
  coordinator_.breaks = {{0, absl::DeadlineExceededError("no answer")}};
  EXPECT_EQ(Run({"wait", "run", "--timeout", "5s"}), 124);
  EXPECT_THAT(err(), HasSubstr("error: timed out while waiting; job job2 (run) is QUEUED: needs 4 "
                               "workers of one class; 1 can be used; the job goes on: vitscale "
                               "watch job2\n"));
}

TEST_F(CliTest, WhatAJobWaitsForIsToldOnceWhileWaitingAndWatching) {
  v1::Job& job = AddJob("job2", "run", v1::JOB_STATE_QUEUED);
  job.set_reason("submitted");
  job.set_message("waits for workers");
  const std::string told = "job job2 (run) is QUEUED: needs 4 workers; 1 can be used\n";
  coordinator_.on_watch = [&](absl::Duration) {
    job.set_reason("not_enough_workers");
    job.set_message("needs 4 workers; 1 can be used");
  };
  for (const char* command : {"wait", "watch"}) {
    coordinator_.breaks = {{1, absl::UnavailableError("gone")}, {1, absl::UnavailableError("")}};
    Run({command, "run", "--timeout", "5s"});
    const std::vector<std::string> parts =
        absl::StrSplit(command == std::string("wait") ? err() : out(), told);
    EXPECT_EQ(parts.size(), 2u) << out() << err();
    job.set_reason("submitted");
    job.set_message("waits for workers");
  }
}

TEST_F(CliTest, AFailedJobSaysWhyAndNoStepsOfAnUnknownNumber) {
  v1::Job& job = AddJob("job2", "run", v1::JOB_STATE_FAILED);
  job.set_step(0);
  job.set_total_steps(0);
  job.set_reason("data");
  job.set_message("data.train: images: '/x' does not exist");
  EXPECT_EQ(Run({"watch", "run"}), 1);
  EXPECT_EQ(Lines().back(),
            "job job2 (run) FAILED, because of data: data.train: images: '/x' does not exist");
  EXPECT_EQ(Run({"summary", "run"}), 0);
  EXPECT_THAT(out(), HasSubstr("because of       data: data.train: images: '/x' does not exist"));
  EXPECT_EQ(Run({"summary", "run", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())["reason"], "data");
  terminal_ = true;
  EXPECT_EQ(Run({"watch", "run"}), 1);
  EXPECT_THAT(out(), Not(HasSubstr("0/0")));
}

TEST(InterruptWordsTest, AreWrittenBeforeTheSignalEndsTheProgram) {
  EXPECT_EXIT(
      {
        const InterruptWords words("the job goes on: vitscale watch job1");
        raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "\nthe job goes on: vitscale watch job1\n");
  EXPECT_EXIT(
      {
        { const InterruptWords words("the job goes on"); }
        raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "^$")
      << "who waits no more says nothing";
}

TEST_F(CliTest, CompactedHistoryIsLeftOut) {
  coordinator_.breaks = {{2, absl::UnavailableError("gone")},
                         {0, absl::OutOfRangeError("compacted")}};
  EXPECT_EQ(Run({"wait", "tiny"}), 0) << err();
}
}  // namespace
}  // namespace vitscale
