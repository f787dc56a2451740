#include "server/api/job_directory.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "server/core/convert.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

JobRow Row(int64_t number, const std::string& name, v1::JobState state = v1::JOB_STATE_QUEUED) {
  JobRow row;
  row.set_number(number);
  row.mutable_job()->set_id(absl::StrCat("id", number));
  row.mutable_job()->mutable_spec()->set_name(name);
  row.mutable_job()->set_state(state);
  return row;
}

TEST(JobDirectoryTest, PagesThroughAllJobsNewestFirstWithoutGapOrRepetition) {
  JobDirectory directory;
  for (int i = 1; i <= 23; ++i) directory.Publish(Row(i, "job"));
  v1::ListJobsRequest request;
  request.set_page_size(5);
  int64_t expected = 23;
  while (true) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::ListJobsResponse page,
                                  directory.List(request, absl::Now()));
    for (const v1::Job& job : page.jobs()) EXPECT_EQ(job.id(), absl::StrCat("id", expected--));
    if (page.next_page_token().empty()) break;
    directory.Publish(Row(100 + expected, "newer"));  // does not disturb the pages
    request.set_page_token(page.next_page_token());
  }
  EXPECT_EQ(expected, 0);
}

TEST(JobDirectoryTest, FiltersByStateNameAndLabels) {
  JobDirectory directory;
  directory.Publish(Row(1, "a", v1::JOB_STATE_RUNNING));
  JobRow labelled = Row(2, "a");
  (*labelled.mutable_job()->mutable_spec()->mutable_labels())["team"] = "x";
  directory.Publish(labelled);
  v1::ListJobsRequest request;
  request.add_states(v1::JOB_STATE_RUNNING);
  EXPECT_EQ(directory.List(request, absl::Now())->jobs_size(), 1);
  request.clear_states();
  (*request.mutable_labels())["team"] = "x";
  EXPECT_EQ(directory.List(request, absl::Now())->jobs(0).id(), "id2");
}

TEST(JobDirectoryTest, FindsByIdAndByAnUnambiguousName) {
  JobDirectory directory;
  directory.Publish(Row(1, "one"));
  directory.Publish(Row(2, "two"));
  directory.Publish(Row(3, "two"));
  EXPECT_THAT(directory.Find("id1"), IsOk());
  EXPECT_THAT(directory.Find("one"), IsOk());
  EXPECT_THAT(directory.Find("two"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(directory.Find("three"), StatusIs(absl::StatusCode::kNotFound));
}

TEST(JobDirectoryTest, EvaluationsTakeNoNameFromARunAndOfSeveralTheNewestIsMeant) {
  JobDirectory directory;
  directory.Publish(Row(1, "run"));
  for (int i = 2; i <= 5; ++i) {
    JobRow evaluation = Row(i, i < 4 ? "run" : "run-eval");
    evaluation.mutable_job()->mutable_spec()->set_kind(v1::JOB_KIND_EVALUATE);
    directory.Publish(evaluation);
  }
  EXPECT_EQ(directory.Find("run").value()->job().id(), "id1");
  EXPECT_EQ(directory.Find("run-eval").value()->job().id(), "id5");
}

TEST(JobDirectoryTest, RefusesAForeignPageTokenAndAHugePage) {
  JobDirectory directory;
  v1::ListJobsRequest request;
  request.set_page_token("abc");
  EXPECT_THAT(directory.List(request, absl::Now()), StatusIs(absl::StatusCode::kInvalidArgument));
  request.clear_page_token();
  request.set_page_size(1001);
  EXPECT_THAT(directory.List(request, absl::Now()), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(JobAtTest, SecondsByStateAddUpToWallTime) {
  JobRow row = Row(1, "a", v1::JOB_STATE_RUNNING);
  const absl::Time now = absl::FromUnixSeconds(1000);
  *row.mutable_state_since() = ToProto(now - absl::Seconds(60));
  row.mutable_job()->mutable_goodput()->set_queued(40);
  row.mutable_job()->mutable_goodput()->set_input_stall(6);
  row.set_booked_seconds(6);
  const v1::Goodput goodput = JobAt(row, now).goodput();
  EXPECT_DOUBLE_EQ(goodput.productive(), 54);
  EXPECT_DOUBLE_EQ(goodput.queued() + goodput.input_stall() + goodput.productive(), 100);
}

}  // namespace
}  // namespace vitscale
