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

std::string FoundId(const JobDirectory& directory, const std::string& id_or_name) {
  const auto row = directory.Find(id_or_name);
  return row.ok() ? (*row)->job().id() : std::string(row.status().message());
}

TEST(JobDirectoryTest, AnIdIsFoundWhateverItsStateAndAnUnknownNameIsNotFound) {
  JobDirectory directory;
  directory.Publish(Row(1, "one", v1::JOB_STATE_FAILED));
  directory.Publish(Row(2, "one"));
  EXPECT_EQ(FoundId(directory, "id1"), "id1");
  EXPECT_THAT(directory.Find("three"), StatusIs(absl::StatusCode::kNotFound));
}

TEST(JobDirectoryTest, ANameMeansTheOneJobOfItThatHasNotEnded) {
  JobDirectory directory;
  directory.Publish(Row(1, "run", v1::JOB_STATE_FAILED));
  directory.Publish(Row(2, "run", v1::JOB_STATE_PAUSED));
  directory.Publish(Row(3, "run", v1::JOB_STATE_SUCCEEDED));
  directory.Publish(Row(4, "another"));
  EXPECT_EQ(FoundId(directory, "run"), "id2");
}

TEST(JobDirectoryTest, WhereAllJobsOfANameHaveEndedItMeansTheNewest) {
  JobDirectory directory;
  directory.Publish(Row(1, "run", v1::JOB_STATE_SUCCEEDED));
  directory.Publish(Row(2, "run", v1::JOB_STATE_CANCELLED));
  directory.Publish(Row(3, "another", v1::JOB_STATE_SUCCEEDED));
  EXPECT_EQ(FoundId(directory, "run"), "id2");
}

TEST(JobDirectoryTest, SeveralJobsOfANameThatHaveNotEndedAreListedEvaluationsToo) {
  JobDirectory directory;
  directory.Publish(Row(1, "run", v1::JOB_STATE_RUNNING));
  directory.Publish(Row(2, "run", v1::JOB_STATE_SUCCEEDED));
  JobRow evaluation = Row(3, "run");
  evaluation.mutable_job()->mutable_spec()->set_kind(v1::JOB_KIND_EVALUATE);
  directory.Publish(evaluation);
  EXPECT_THAT(directory.Find("run"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       testing::EndsWith("2 jobs named 'run' have not ended: give the id of one: "
                                         "id3 (QUEUED), id1 (RUNNING)")));
  for (int i = 4; i < 10; ++i) directory.Publish(Row(i, "run"));
  EXPECT_THAT(FoundId(directory, "run"),
              testing::AllOf(testing::StartsWith("8 jobs"), testing::HasSubstr("id5 (QUEUED), …")));
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
