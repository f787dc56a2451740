#include "server/metrics/coordinator_metrics.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;
using testing::Not;

JobRow Row(const std::string& id, v1::JobState state) {
  JobRow row;
  row.mutable_job()->set_id(id);
  row.mutable_job()->set_state(state);
  return row;
}

Changes Transition(const std::string& id, v1::JobState from, v1::JobState to,
                   const std::string& reason) {
  Changes changes;
  changes.jobs.push_back(Row(id, to));
  v1::Event& event = changes.events.emplace_back();
  event.set_kind("state_changed");
  event.set_from(from);
  event.set_to(to);
  event.set_reason(reason);
  return changes;
}

TEST(CoordinatorMetricsTest, CountsJobsByStateAndTransitionsByReason) {
  CoordinatorMetrics metrics(3);
  metrics.Load({Row("a", v1::JOB_STATE_RUNNING), Row("b", v1::JOB_STATE_SUCCEEDED)});
  metrics.Committed(Transition("a", v1::JOB_STATE_RUNNING, v1::JOB_STATE_RECOVERING, "lost_worker"),
                    absl::Milliseconds(1));
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("vitscale_jobs{state=\"recovering\"} 1"));
  EXPECT_THAT(text, HasSubstr("vitscale_jobs{state=\"running\"} 0"));
  EXPECT_THAT(text, HasSubstr("vitscale_jobs{state=\"succeeded\"} 1"));
  EXPECT_THAT(text, HasSubstr("vitscale_job_transitions_total{from=\"running\",reason=\"lost_"
                              "worker\",to=\"recovering\"} 1"));
  EXPECT_THAT(text, HasSubstr("vitscale_coordinator_term 3"));
}

TEST(CoordinatorMetricsTest, TheNewestEvaluationsOfAJobAreShownUntilItEnds) {
  CoordinatorMetrics metrics(1);
  JobRow row = Row("a", v1::JOB_STATE_RUNNING);
  row.mutable_job()->mutable_spec()->set_name("long-run");
  v1::EvalRecord* eval = row.mutable_job()->add_last_evals();
  eval->set_name("few");
  (*eval->mutable_values())["10shot"] = 0.75;
  (*eval->mutable_values())["10shot_l2_1024"] = 0.5;
  Changes changes;
  changes.jobs.push_back(row);
  metrics.Committed(changes, {});
  EXPECT_THAT(metrics.Text(),
              HasSubstr("vitscale_job_evaluation_value{evaluation=\"few\",job_id=\"a\",job_name=\""
                        "long-run\",measure=\"10shot\"} 0.75"));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("10shot_l2_1024"))) << "of a sweep the best";
  changes.jobs[0].mutable_job()->set_state(v1::JOB_STATE_SUCCEEDED);
  metrics.Committed(changes, {});
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("measure=\"10shot\"")));
}

TEST(CoordinatorMetricsTest, GoodputCountsWhatWasAddedSinceTheStart) {
  CoordinatorMetrics metrics(1);
  JobRow row = Row("a", v1::JOB_STATE_RUNNING);
  row.mutable_job()->mutable_goodput()->set_productive(100);
  metrics.Load({row});
  row.mutable_job()->mutable_goodput()->set_productive(130);
  Changes changes;
  changes.jobs.push_back(row);
  metrics.Committed(changes, absl::ZeroDuration());
  EXPECT_THAT(metrics.Text(), HasSubstr("vitscale_goodput_seconds_total{state=\"productive\"} 30"));
}

TEST(CoordinatorMetricsTest, AJobThatIsCommittedAgainAfterItsEndIsCountedOnce) {
  CoordinatorMetrics metrics(1);
  JobRow row = Row("a", v1::JOB_STATE_RUNNING);
  Changes changes;
  changes.jobs.push_back(row);
  metrics.Committed(changes, {});
  row.mutable_job()->set_state(v1::JOB_STATE_SUCCEEDED);
  row.mutable_job()->set_recoveries(2);
  row.mutable_job()->mutable_goodput()->set_productive(500);
  changes.jobs[0] = row;
  for (int report = 0; report < 3; ++report) metrics.Committed(changes, {});
  EXPECT_THAT(metrics.Text(),
              HasSubstr("vitscale_goodput_seconds_total{state=\"productive\"} 500"));
  EXPECT_THAT(metrics.Text(), HasSubstr("vitscale_recoveries_total 2"));
}

TEST(CoordinatorMetricsTest, EveryPlacementIsAQueueWaitAlsoOneInTheCommitOfTheSubmission) {
  CoordinatorMetrics metrics(1);
  JobRow row = Row("a", v1::JOB_STATE_STARTING);
  row.mutable_job()->set_attempt(1);
  row.mutable_queued_since()->set_seconds(100);
  row.mutable_gang()->mutable_start()->set_seconds(103);
  Changes changes;
  changes.jobs.push_back(row);
  metrics.Committed(changes, {});
  row.mutable_job()->set_state(v1::JOB_STATE_RUNNING);
  changes.jobs[0] = row;
  metrics.Committed(changes, {});
  EXPECT_THAT(metrics.Text(), HasSubstr("vitscale_queue_wait_seconds_count 1"));
  EXPECT_THAT(metrics.Text(), HasSubstr("vitscale_queue_wait_seconds_sum 3"));
}

TEST(CoordinatorMetricsTest, TenThousandFinishedJobsLeaveNoSeriesBehind) {
  CoordinatorMetrics metrics(1);
  metrics.Committed(Transition("first", v1::JOB_STATE_RUNNING, v1::JOB_STATE_SUCCEEDED, "done"),
                    {});
  const size_t size = metrics.Text().size();
  for (int i = 0; i < 10'000; ++i) {
    metrics.Committed(
        Transition(absl::StrCat("job", i), v1::JOB_STATE_RUNNING, v1::JOB_STATE_SUCCEEDED, "done"),
        {});
  }
  EXPECT_LT(metrics.Text().size(), size + 200);  // longer numbers, no new lines
  EXPECT_THAT(metrics.Text(), HasSubstr("vitscale_jobs{state=\"succeeded\"} 10001"));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("job123")));
}

}  // namespace
}  // namespace vitscale
