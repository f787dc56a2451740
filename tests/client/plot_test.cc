#include "client/plot.h"

#include <cmath>

#include "absl/strings/str_split.h"
#include "client/job_text.h"
#include "client/measures.h"
#include "client/summary.h"
#include "gmock/gmock.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

size_t Count(const std::string& text, const std::string& word) {
  size_t count = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++count;
  return count;
}

Plot OneLine(std::vector<PlotPoint> points, bool log = false) {
  Plot plot{"title <1>", "sub", "steps", {{"loss", {}, log}}};
  plot.panels[0].series.push_back({"loss", std::move(points), "#123456"});
  return plot;
}

TEST(NiceTicksTest, AreRoundNumbersWithinTheRange) {
  EXPECT_THAT(NiceTicks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(NiceTicks(0, 2340, 5), ElementsAre(0, 500, 1000, 1500, 2000));
  EXPECT_EQ(NiceTicks(3, 3, 5).size(), 1u);
}

TEST(SmoothedTest, KeepsConstantsAndHasNoLag) {
  std::vector<PlotPoint> flat;
  for (int i = 0; i < 50; ++i) flat.push_back({double(i), 2.0});
  // Sums and weights take the same rounding path up to a factor: a few ulps of 2.
  for (const PlotPoint& p : Smoothed(flat, 10)) EXPECT_NEAR(p.y, 2.0, 1e-14);
  std::vector<PlotPoint> slope;
  for (int i = 0; i < 1000; ++i) slope.push_back({double(i), double(i)});
  // What lies beyond both ends weighs less than 0.9^500 < 2^-70 of 1000.
  EXPECT_NEAR(Smoothed(slope, 10)[500].y, 500, 1e-10);
}

TEST(PlotSvgTest, HasTitleAxesTicksAndTheLine) {
  const std::string svg = PlotSvg(OneLine({{0, 1}, {50, 0.5}, {100, 0.25}}));
  EXPECT_THAT(svg, AllOf(HasSubstr("<svg"), HasSubstr("title &lt;1&gt;"), HasSubstr(">steps<"),
                         HasSubstr(">100<"), HasSubstr("<polyline"), HasSubstr("</svg>")));
  EXPECT_EQ(Count(svg, "<text"), Count(svg, "</text>"));
}

TEST(PlotSvgTest, ANonFiniteValueLeavesAGap) {
  EXPECT_EQ(Count(PlotSvg(OneLine({{0, 1}, {1, 1}, {2, NAN}, {3, 1}, {4, 1}})), "<polyline"), 2u);
  EXPECT_THAT(PlotSvg(OneLine({{0, 1}, {2, INFINITY}, {3, 2}})), Not(HasSubstr("inf")));
}

TEST(PlotSvgTest, DrawsNothingAndOnePointWithoutTrouble) {
  EXPECT_THAT(PlotSvg(OneLine({})), AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf"))));
  EXPECT_THAT(PlotSvg(OneLine({{1, 0}})), AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf"))));
}

TEST(PlotSvgTest, ALogAxisFallsBackToLinearWhereAValueIsNotPositive) {
  EXPECT_THAT(PlotSvg(OneLine({{0, 1}, {1, 0.01}}, true)), HasSubstr(">0.02<"));
  EXPECT_THAT(PlotSvg(OneLine({{0, 1}, {1, 0}}, true)), Not(HasSubstr("nan")));
}

TEST(PlotSvgTest, AMillionPointsBecomeAFewThousandAndKeepTheirPeaks) {
  std::vector<PlotPoint> points;
  for (int i = 0; i < 1'000'000; ++i)
    points.push_back({double(i), i == 777'777 ? 100.0 : std::sin(i * 0.01)});
  const std::string svg = PlotSvg(OneLine(points));
  EXPECT_LT(svg.size(), 100'000u);
  const std::string without = PlotSvg(OneLine({points.begin(), points.begin() + 777'000}));
  EXPECT_NE(svg.find(">100<"), std::string::npos) << "the peak sets the axis";
}

JobHistory History() {
  JobHistory history;
  history.job.set_id("abc");
  history.job.mutable_spec()->set_name("fashion");
  history.job.mutable_spec()->mutable_batch()->set_global(256);
  history.job.set_state(v1::JOB_STATE_SUCCEEDED);
  history.job.set_step(100);
  history.job.mutable_start_time()->set_seconds(1000);
  history.job.mutable_end_time()->set_seconds(1012);
  for (int step = 1; step <= 100; ++step) {
    v1::StepRecord record;
    record.set_step(step);
    record.set_images(step * 256);
    record.set_loss(3.0 / step);
    record.set_learning_rate(1e-3);
    record.set_step_seconds(step == 1 ? 5 : 0.1);
    history.steps.push_back(record);
  }
  for (const int step : {50, 100}) {
    v1::EvalRecord eval;
    eval.set_name("val");
    eval.set_step(step);
    eval.set_images(step * 256);
    (*eval.mutable_values())["top1"] = step / 125.0;
    (*eval.mutable_values())["loss"] = 0.4;
    history.evals.push_back(eval);
  }
  history.checkpoint_path = "/ckpt/abc/last";
  return history;
}

TEST(SummaryTest, SaysWhatCameOut) {
  const Summary summary = Summarize(History(), absl::UnixEpoch());
  EXPECT_DOUBLE_EQ(*summary.top1, 0.8);
  EXPECT_DOUBLE_EQ(summary.loss, 0.03);
  EXPECT_NEAR(summary.images_per_second, 2560, 1e-6) << "without the first step, which warms up";
  EXPECT_DOUBLE_EQ(summary.training_seconds, 12);
  EXPECT_EQ(summary.checkpoint, "/ckpt/abc/last");
  EXPECT_THAT(SummaryText(summary),
              AllOf(HasSubstr("80.00 % (val)"), HasSubstr("2,560"), HasSubstr("12.0")));
  EXPECT_THAT(SummaryJson(summary),
              AllOf(HasSubstr("\"top1\": 0.8"), HasSubstr("\"training_seconds\": 12,")));
}

// Of history, few-shot evaluations by another name, once with a sweep of strengths.
JobHistory FewShotHistory() {
  JobHistory history = History();
  for (const int step : {50, 100}) {
    v1::EvalRecord eval;
    eval.set_name("few");
    eval.set_step(step);
    auto& values = *eval.mutable_values();
    values["1shot"] = 0.25;
    values["5shot"] = 0.5;
    values["10shot"] = step / 200.0;
    values["10shot_l2_1024"] = step / 200.0;
    values["10shot_l2_0.5"] = 0.125;
    history.evals.push_back(eval);
  }
  return history;
}

TEST(SummaryTest, TenShotAccuracyIsReportedBesideTop1) {
  const Summary summary = Summarize(FewShotHistory(), absl::UnixEpoch());
  EXPECT_DOUBLE_EQ(*summary.top1, 0.8);
  EXPECT_DOUBLE_EQ(*summary.few_shot_10, 0.5);
  EXPECT_THAT(SummaryText(summary), HasSubstr("50.00 % (few)"));
  EXPECT_THAT(SummaryJson(summary), HasSubstr("\"fewshot_10\": 0.5"));
}

TEST(SummaryTest, AJobWithoutStepsHasNulls) {
  JobHistory empty;
  empty.job.set_id("abc");
  const std::string json = SummaryJson(Summarize(empty, absl::UnixEpoch()));
  EXPECT_THAT(json, AllOf(HasSubstr("\"top1\": null"), HasSubstr("\"fewshot_10\": null"),
                          HasSubstr("\"loss\": null")));
}

TEST(JobPlotTest, OneJobHasLossAccuracyAndLearningRate) {
  const Plot plot = JobPlot({History()}, {});
  ASSERT_EQ(plot.panels.size(), 3u);
  EXPECT_EQ(plot.title, "fashion");
  EXPECT_THAT(PlotSvg(plot),
              AllOf(HasSubstr("training loss"), HasSubstr("80.00 %"), HasSubstr("learning rate")));
}

TEST(JobPlotTest, FewShotAccuraciesHaveAPanelWithALineForEachNumberOfShots) {
  const Plot plot = JobPlot({FewShotHistory()}, {});
  ASSERT_EQ(plot.panels.size(), 4u);
  EXPECT_THAT(plot.panels[2].y_label, HasSubstr("few-shot"));
  EXPECT_EQ(plot.panels[2].series.size(), 6u) << "a line and its marks for 1, 5 and 10 shots";
  EXPECT_THAT(PlotSvg(plot), AllOf(HasSubstr("1: 25.00 %"), HasSubstr("10: 50.00 %")));
  const Plot two = JobPlot({FewShotHistory(), FewShotHistory()}, {});
  EXPECT_EQ(two.panels[2].series.size(), 4u) << "10 shots of each job";
}

TEST(MeasuresTest, AreInTheOrderOfShotsWithTheirStrengthsBehind) {
  v1::EvalRecord eval;
  for (const char* name :
       {"25shot", "1shot_l2_1024", "5shot", "1shot", "1shot_l2_0.5", "loss", "top1"}) {
    (*eval.mutable_values())[name] = 0.5;
  }
  std::vector<std::string> lines;
  for (const Measure& measure : MeasuresOf(eval)) {
    lines.push_back(measure.name + " " + measure.Text());
  }
  EXPECT_THAT(lines,
              ElementsAre("top1 50.00 %", "loss 0.5000", "1shot 50.00 %", "1shot_l2_0.5 50.00 %",
                          "1shot_l2_1024 50.00 %", "5shot 50.00 %", "25shot 50.00 %"));
  EXPECT_EQ(EvalValues(eval),
            "top1 50.00 %, loss 0.5000, 1shot 50.00 %, 5shot 50.00 %, 25shot 50.00 %");
}

TEST(JobPlotTest, SeveralJobsLieOverEachOtherInTheirOwnColours) {
  const Plot plot = JobPlot({History(), History()}, {true, false});
  EXPECT_EQ(plot.x_label, "images");
  EXPECT_NE(plot.panels[0].series.front().color, plot.panels[0].series.back().color);
}

}  // namespace
}  // namespace vitscale
