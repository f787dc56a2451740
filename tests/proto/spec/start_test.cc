// kind and from: branches of a run, and evaluations of a checkpoint.

#include "absl/strings/str_cat.h"
#include "proto/spec/checkpoint_ref.h"
#include "proto/spec/job_spec.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;
using testing::UnorderedElementsAre;

constexpr char kFull[] = "runs/3f2k9a1b7c0d/a0001.g0002.step_000000060";

constexpr char kTraining[] = R"(
model: {variant: S/16, classes: 10}
data: {train: {format: synthetic, synthetic_images: 1000}, preprocess: 'flip_lr|value_range(0,1)'}
optimizer: {lr: 1e-3}
schedule: {total: 100 steps}
batch: {global: 50}
evals: [{name: val, data: {format: synthetic, synthetic_images: 10}, every: 5 steps}]
)";

constexpr char kEvaluation[] = R"(
kind: evaluate
from: runs/3f2k9a1b7c0d/a0001.g0002.step_000000060
model: {variant: S/16, classes: 10}
evals: [{name: val, data: {format: synthetic, synthetic_images: 10}}]
)";

std::vector<std::string> FaultsOf(absl::string_view text, const std::vector<std::string>& set) {
  std::vector<std::string> lines;
  for (const Fault& fault : StatusToFaults(ParseJobSpec(text, SpecFormat::kAuto, set).status())) {
    lines.push_back(FaultText(fault));
  }
  return lines;
}

TEST(CheckpointRefTest, ReadsTheThreeFormsAndWritesThemBack) {
  struct Case {
    std::string text, dir, job, name;
    int64_t step;
  };
  const std::string name = "a0001.g0002.step_000000060";
  for (const Case& c : {Case{kFull, "runs", "3f2k9a1b7c0d", name, 60},
                        Case{absl::StrCat("a/b/x/", name), "a/b", "x", name, 60},
                        Case{absl::StrCat("/var/runs/x/", name), "/var/runs", "x", name, 60},
                        Case{absl::StrCat("fashion/", name), "", "fashion", name, 60},
                        Case{"x/a0001.g0002.step_000000007.emergency", "", "x",
                             "a0001.g0002.step_000000007.emergency", 7},
                        Case{"fashion-mnist", "", "fashion-mnist", "", 0}}) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointRef ref, ParseCheckpointRef(c.text));
    EXPECT_EQ(ref.dir, c.dir) << c.text;
    EXPECT_EQ(ref.job, c.job) << c.text;
    EXPECT_EQ(ref.name, c.name) << c.text;
    EXPECT_EQ(ref.step, c.step) << c.text;
    EXPECT_EQ(ref.complete(), !c.dir.empty()) << c.text;
    EXPECT_EQ(ref.Text(), c.text);
  }
}

TEST(CheckpointRefTest, RefusesWhatLeavesTheRootOrNamesNoCheckpoint) {
  const std::string name = "a0001.g0002.step_000000060";
  for (const std::string& text :
       {std::string(), std::string("/"), std::string(".."), absl::StrCat("runs/../x/", name),
        absl::StrCat("runs//x/", name), absl::StrCat("./x/", name), absl::StrCat("/x/", name),
        std::string("runs/x/step_60"), std::string("runs/x/a1.g2.step_60"), std::string("runs/x/"),
        absl::StrCat("runs/x/", name, "0.old"), absl::StrCat("x y/", name),
        std::string("a0001.g0002.step_99999999999999999999/a0001.g0002.step_99999999999999999999"),
        std::string(100, 'x')}) {
    EXPECT_THAT(ParseCheckpointRef(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

TEST(StartTest, ABranchIsATrainingJobWithFrom) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const auto spec, ParseJobSpec(kTraining, SpecFormat::kAuto, {absl::StrCat("from=", kFull)}));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto canonical, Canonicalize(spec));
  EXPECT_EQ(canonical.kind(), v1::JOB_KIND_PRETRAIN);
  EXPECT_EQ(canonical.from(), kFull);
}

TEST(StartTest, ATotalThatIsNotBeyondTheBranchPointIsAFaultOfTheSchedule) {
  const std::string from = absl::StrCat("from=", kFull);
  EXPECT_THAT(FaultsOf(kTraining, {from, "schedule.total=60 steps"}),
              UnorderedElementsAre(HasSubstr(
                  "schedule.total (--set): was \"60 steps\", wanted more than the 60 steps")));
  EXPECT_THAT(FaultsOf(kTraining, {from, "schedule.total=3000 images"}),
              UnorderedElementsAre(HasSubstr("schedule.total")));
  EXPECT_THAT(FaultsOf(kTraining, {from, "schedule.total=3001 images"}), testing::IsEmpty());
  EXPECT_THAT(FaultsOf(kTraining, {from, "schedule.total=2 epochs"}), testing::IsEmpty())
      << "only a worker knows how long an epoch is";
}

TEST(StartTest, AnEvaluationNeedsACheckpointAndEvaluationsAndNothingOfTraining) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto spec, ParseJobSpec(kEvaluation));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto canonical, Canonicalize(spec));
  EXPECT_FALSE(canonical.has_optimizer());
  EXPECT_FALSE(canonical.has_schedule());
  EXPECT_FALSE(canonical.data().has_train());
  EXPECT_EQ(canonical.batch().global(), 64);
  EXPECT_EQ(canonical.evals(0).preprocess(), "value_range(-1,1)");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto again, Canonicalize(canonical));
  EXPECT_EQ(SpecBytes(canonical), SpecBytes(again));
  EXPECT_THAT(FaultsOf(kEvaluation, {"from="}),
              UnorderedElementsAre(HasSubstr("from: is missing, wanted the checkpoint")));
  EXPECT_THAT(FaultsOf(kEvaluation, {"evals="}),
              UnorderedElementsAre(HasSubstr("evals: is empty")));
}

TEST(StartTest, TheFileOfATrainingJobDoesAsAnEvaluation) {
  const std::vector<std::string> set = {"kind=evaluate", absl::StrCat("from=", kFull),
                                        "resources.workers={min: 2, max: 2}", "optimizer.lr=-1"};
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto spec, ParseJobSpec(kTraining, SpecFormat::kAuto, set));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto canonical, Canonicalize(spec));
  EXPECT_EQ(canonical.evals(0).every(), "") << "measured once";
  EXPECT_EQ(canonical.evals(0).preprocess(), "value_range(0,1)") << "that of training";
  EXPECT_EQ(canonical.batch().global(), 50) << "what is given stays";
}

}  // namespace
}  // namespace vitscale
