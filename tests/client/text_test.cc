#include "client/text.h"

#include <cmath>

#include "client/progress.h"
#include "gmock/gmock.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(TableTest, ColumnsAreAsWideAsTheirWidestCellAndLinesEndWithoutSpaces) {
  Table table({"ID", "STATE", "X"});
  table.Row({"a", "RUNNING", ""});
  table.Row({"long-id", "é", "1"});
  EXPECT_EQ(table.Text(), "ID       STATE    X\na        RUNNING\nlong-id  é        1\n");
}

TEST(TableTest, ColourCodesHaveNoWidth) {
  Table table({"STATE", "N"});
  table.Row({Coloured("RUNNING", true), "1"});
  table.Row({"x", "2"});
  EXPECT_THAT(table.Text(), HasSubstr("\nx        2\n"));
}

TEST(TableTest, CsvQuotesWhatNeedsIt) {
  Table table({"a", "b"});
  table.Row({"1,2", "say \"x\""});
  EXPECT_EQ(table.Csv(), "a,b\n\"1,2\",\"say \"\"x\"\"\"\n");
}

TEST(TextTest, NumbersForPeople) {
  EXPECT_EQ(Thousands(0), "0");
  EXPECT_EQ(Thousands(-1234567), "-1,234,567");
  EXPECT_EQ(Significant(0.271349, 4), "0.2713");
  EXPECT_EQ(Significant(12.3456, 3), "12.3");
  EXPECT_EQ(Significant(0.002, 3), "0.00200");
  EXPECT_EQ(Significant(1e-9, 3), "1.00e-09");
  EXPECT_EQ(Significant(std::nan(""), 3), "NaN");
  EXPECT_EQ(Age(absl::Seconds(42)), "42s");
  EXPECT_EQ(Age(absl::Seconds(192)), "3m12s");
  EXPECT_EQ(Age(absl::Hours(2) + absl::Minutes(5)), "2h05m");
  EXPECT_EQ(Age(absl::Hours(99)), "4d03h");
  EXPECT_EQ(Age(-absl::Seconds(3)), "0s") << "clocks of two machines differ";
  EXPECT_EQ(Shorten("fashion-mnist", 8), "fashion…");
  EXPECT_EQ(Shorten("short", 8), "short");
}

v1::StepRecord Step(int64_t step) {
  v1::StepRecord record;
  record.set_step(step);
  record.set_images(step * 256);
  record.set_step_seconds(0.05);
  record.set_loss(0.5);
  return record;
}

TEST(ProgressTest, RateAndRemainingTimeComeFromTheNewestSteps) {
  ProgressRate rate;
  EXPECT_EQ(rate.images_per_second(), 0);
  EXPECT_FALSE(rate.Remaining(100).has_value());
  for (int step = 1; step <= 200; ++step) rate.Add(Step(step));
  EXPECT_NEAR(rate.images_per_second(), 5120, 1e-6);
  EXPECT_NEAR(absl::ToDoubleSeconds(*rate.Remaining(300)), 5.0, 1e-6);
  EXPECT_EQ(*rate.Remaining(200), absl::ZeroDuration());
}

TEST(ProgressTest, ARollBackForgetsTheOldRate) {
  ProgressRate rate;
  for (int step = 1; step <= 10; ++step) rate.Add(Step(step));
  rate.Add(Step(4));
  EXPECT_EQ(rate.images_per_second(), 0);
}

TEST(ProgressTest, TheBarFillsInEighths) {
  EXPECT_EQ(ProgressBar(0, 4), "····");
  EXPECT_EQ(ProgressBar(0.5, 4), "██··");
  EXPECT_EQ(ProgressBar(1, 4), "████");
  EXPECT_EQ(ProgressBar(2, 2), "██");
  EXPECT_EQ(ProgressBar(0.5625, 4), "██▎·");
}

TEST(ProgressTest, TheLineFitsTheTerminalAndDropsPartsFromTheRight) {
  ProgressView view;
  view.job.mutable_spec()->set_name("fashion");
  view.job.set_state(v1::JOB_STATE_RUNNING);
  view.job.set_step(60);
  view.job.set_total_steps(100);
  *view.job.mutable_last_step() = Step(60);
  for (int step = 1; step <= 60; ++step) view.rate.Add(Step(step));
  const std::string wide = ProgressLine(view, 200, false);
  EXPECT_THAT(wide,
              AllOf(HasSubstr("fashion RUNNING"), HasSubstr(" 60 %"), HasSubstr("60/100"),
                    HasSubstr("loss 0.5000"), HasSubstr("5,120 images/s"), HasSubstr("ETA 2s")));
  const std::string narrow = ProgressLine(view, 60, false);
  EXPECT_LT(DisplayWidth(narrow), 60);
  EXPECT_THAT(narrow, AllOf(HasSubstr("60 %"), Not(HasSubstr("ETA"))));
  EXPECT_LT(DisplayWidth(ProgressLine(view, 60, true)), 60) << "colours do not count";
}

TEST(ProgressTest, AJobWithoutStepsHasALineToo) {
  ProgressView view;
  view.job.mutable_spec()->set_name("x");
  view.job.set_state(v1::JOB_STATE_QUEUED);
  view.job.set_message("waits for 2 workers");
  EXPECT_THAT(ProgressLine(view, 100, false),
              AllOf(HasSubstr("QUEUED"), HasSubstr("waits for 2 workers")));
}

}  // namespace
}  // namespace vitscale
