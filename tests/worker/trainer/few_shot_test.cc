// Few-shot evaluations inside of a job: whole trainers, real model, real files.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/test_gang.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr char kEvals[] =
    "[{name: few, kind: fewshot, shots: [1, 5], every: 20 steps, "
    "support: {format: synthetic, synthetic_images: 200}, "
    "data: {format: synthetic, synthetic_images: 77}}]";

TestGang::Options With(const TemporaryDirectory& folder, int ranks, const std::string& evals) {
  TestGang::Options options;
  options.job = TinyJob({{"evals", evals}, {"batch", "{global: 64, micro: 16}"}});
  options.ranks = ranks;
  options.checkpoint_root = folder.path();
  return options;
}

TEST(FewShotTrainerTest, AJobMeasuresOnTheWayAndAtTheEndAndTheFeaturesGetBetter) {
  const TemporaryDirectory folder;
  const auto results = RunGang(With(folder, 1, kEvals));
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  const auto evals = RecordsOf<link::EvalRecord>(results[0]);
  ASSERT_THAT(evals, SizeIs(3));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(evals[i].name, "few");
    EXPECT_EQ(evals[i].step, 20 * (i + 1));
    EXPECT_EQ(evals[i].images, 64 * 20 * (i + 1));
    EXPECT_EQ(evals[i].eval_images, 77);
    EXPECT_EQ(evals[i].final, i == 2);
    EXPECT_THAT(evals[i].values, UnorderedElementsAre(Key("1shot"), Key("5shot")));
  }
  EXPECT_GT(evals[2].values.at("5shot"), 0.3) << "ten classes, and the images are easy";
  EXPECT_LE(evals[2].values.at("5shot"), 1);
}

// Predictions are the same where weights are; those of the two runs differ by the order of sums.
TEST(FewShotTrainerTest, TwoRanksMeasureWhatOneDoesUpToAFewImages) {
  const TemporaryDirectory one, two;
  const auto a = RunGang(With(one, 1, kEvals)), b = RunGang(With(two, 2, kEvals));
  ASSERT_EQ(a[0].exit_code, 0) << a[0].error;
  ASSERT_EQ(b[0].exit_code, 0) << b[0].error;
  const auto evals_a = RecordsOf<link::EvalRecord>(a[0]),
             evals_b = RecordsOf<link::EvalRecord>(b[0]);
  ASSERT_THAT(evals_b, SizeIs(3));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(evals_b[i].eval_images, 77);
    for (const char* name : {"1shot", "5shot"}) {
      EXPECT_NEAR(evals_b[i].values.at(name), evals_a[i].values.at(name), 5.0 / (77 * 3)) << name;
    }
  }
  EXPECT_THAT(RecordsOf<link::EvalRecord>(b[1]), SizeIs(0)) << "one rank reports";
}

// An evaluation leaves training as it is, and a run that is broken and goes on measures the same.
TEST(FewShotTrainerTest, EvaluationsChangeNothingAndARecoveredRunReportsTheSame) {
  constexpr char kFinal[] = "job000000000/a0001.g0001.step_000000060";
  const TemporaryDirectory plain, measured, broken;
  ASSERT_EQ(RunGang(With(plain, 2, "[]"))[0].exit_code, 0);
  const auto whole = RunGang(With(measured, 2, kEvals));
  ASSERT_EQ(whole[0].exit_code, 0) << whole[0].error;
  EXPECT_EQ(ReadCheckpoint(measured.path(), kFinal), ReadCheckpoint(plain.path(), kFinal));

  TestGang::Options options = With(broken, 2, kEvals);
  options.recoveries_max = 1;
  options.faults[1] = "fail_collective@evaluate,step=40";
  const auto recovered = RunGang(options);
  ASSERT_EQ(recovered[0].exit_code, 0) << recovered[0].error;
  const auto want = RecordsOf<link::EvalRecord>(whole[0]);
  const auto have = RecordsOf<link::EvalRecord>(recovered[0]);
  ASSERT_FALSE(have.empty());
  for (const link::EvalRecord& record : have) {
    EXPECT_EQ(record.values, want[record.step / 20 - 1].values) << "step " << record.step;
  }
  EXPECT_EQ(have.back().step, 60);
}

std::string Idx(const std::vector<uint32_t>& dims, const std::string& elements) {
  std::string bytes = {0, 0, 8, static_cast<char>(dims.size())};
  for (const uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(dim >> shift));
  }
  return bytes + elements;
}

void WriteSet(const std::string& folder, const std::string& name, int images, int classes) {
  std::string pixels, labels;
  for (int i = 0; i < images; ++i) {
    labels.push_back(static_cast<char>(i % classes));
    pixels.append(28 * 28, static_cast<char>(10 * (i % classes) + i % 7));
  }
  const auto write = [&](const std::string& file, const std::string& bytes) {
    ASSERT_THAT(WriteFileAtomically(PosixFileSystem(), JoinPath(folder, file), bytes), IsOk());
  };
  write(name + ".images", Idx({static_cast<uint32_t>(images), 28, 28}, pixels));
  write(name + ".labels", Idx({static_cast<uint32_t>(images)}, labels));
}

std::string FewShotOf(const std::string& support, const std::string& data) {
  const auto source = [](const std::string& name) {
    return absl::StrCat("{format: idx, images: ", name, ".images, labels: ", name, ".labels}");
  };
  return absl::StrCat("[{name: few, kind: fewshot, shots: [2], support: ", source(support),
                      ", data: ", source(data), "}]");
}

TEST(FewShotTrainerTest, TheSupportMayHaveMoreClassesThanTheHeadButNotFewerThanTheData) {
  const TemporaryDirectory folder, data;
  WriteSet(data.path(), "twenty", 60, 20);
  WriteSet(data.path(), "twelve", 30, 12);
  TestGang::Options options = With(folder, 1, FewShotOf("twenty", "twelve"));
  options.data_root = data.path();
  const auto good = RunGang(options);
  ASSERT_EQ(good[0].exit_code, 0) << good[0].error;
  const auto evals = RecordsOf<link::EvalRecord>(good[0]);
  ASSERT_THAT(evals, SizeIs(1));
  EXPECT_EQ(evals[0].eval_images, 30);

  const TemporaryDirectory other;
  options = With(other, 1, FewShotOf("twelve", "twenty"));
  options.data_root = data.path();
  const auto bad = RunGang(options);
  EXPECT_EQ(bad[0].exit_code, static_cast<int>(link::TrainerExit::kConfiguration));
  EXPECT_THAT(bad[0].error, AllOf(HasSubstr("evals 'few'"), HasSubstr("image 12"),
                                  HasSubstr("label 12, want 0 to 11")));
}

}  // namespace
}  // namespace vitscale
