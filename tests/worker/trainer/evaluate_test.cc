// Jobs that evaluate a checkpoint and train nothing, and runs that begin with weights alone.

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/child_process.h"
#include "tests/worker/trainer/test_gang.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kEvals[] =
    "[{name: val, data: {format: synthetic, synthetic_images: 100}}, "
    "{name: few, kind: fewshot, shots: [1, 5], data: {format: synthetic, synthetic_images: 90}, "
    "support: {format: synthetic, synthetic_images: 200}}, "
    "{name: other, data: {format: synthetic, synthetic_images: 333}}]";
constexpr char kFrom[] = "runs/longrun00000/a0001.g0001.step_000000020";

std::string EvaluationJob(const std::string& from) {
  return absl::StrCat(
      "kind: evaluate\nname: measure\nfrom: ", from,
      "\nmodel: {custom: {patch: 7, width: 32, depth: 2, heads: 2, mlp_width: 64}, image_size: 28, "
      "channels: 1, pool: map, classes: 10, loss: sigmoid}\nevals: ",
      kEvals, "\n");
}

TestGang::Options Options(const TemporaryDirectory& folder, int ranks, const std::string& job,
                          const std::string& id) {
  TestGang::Options options;
  options.job = job;
  options.job_id = id;
  options.ranks = ranks;
  options.checkpoint_root = folder.path();
  return options;
}

// A short run and its final evaluations.
std::vector<link::EvalRecord> TrainParent(const TemporaryDirectory& folder) {
  const std::string job =
      TinyJob({{"schedule", "{warmup: 5 steps, total: 20 steps}"}, {"evals", kEvals}});
  const auto results = RunGang(Options(folder, 1, job, "longrun00000"));
  EXPECT_EQ(results[0].exit_code, 0) << results[0].error;
  return RecordsOf<link::EvalRecord>(results[0]);
}

// The same parameters as a folder that an import would make.
std::string MakeWeightsOnly(const TemporaryDirectory& folder) {
  FileSystem& fs = PosixFileSystem();
  auto from = *CheckpointStore::Open(fs, folder.path() + "/runs", "longrun00000");
  auto to = *CheckpointStore::Open(fs, folder.path() + "/imported", "weights00000");
  CheckpointManifest manifest = *from.ReadManifest({1, 1, 20, false});
  const auto part =
      *TensorFileReader::Open(fs, JoinPath(from.PathOf(manifest.name), manifest.files[0].name));
  std::vector<std::string> bytes;
  std::vector<NamedTensor> tensors;
  bytes.reserve(part.tensors().size());
  for (const TensorEntry& entry : part.tensors()) {
    if (entry.name.rfind(kParameterPrefix, 0) != 0) continue;
    std::string& data = bytes.emplace_back(entry.bytes, '\0');
    EXPECT_THAT(
        part.Read(entry, absl::MakeSpan(reinterpret_cast<std::byte*>(data.data()), data.size())),
        IsOk());
    tensors.push_back(
        {entry.name, entry.dtype, entry.shape,
         absl::MakeConstSpan(reinterpret_cast<const std::byte*>(data.data()), data.size())});
  }
  manifest.job_id = "weights00000";
  manifest.name = {0, 0, 0, false};
  manifest.weights_only = true;
  manifest.images = manifest.train_images = 0;
  manifest.digest = 0;
  EXPECT_THAT(to.Begin(manifest.name), IsOk());
  manifest.files = {*to.WritePart(manifest.name, 0, 1, tensors)};
  EXPECT_THAT(to.WriteManifest(manifest), IsOk());
  return absl::StrCat("imported/weights00000/", manifest.name.Text());
}

void ExpectSameValues(const std::vector<link::EvalRecord>& is,
                      const std::vector<link::EvalRecord>& want) {
  ASSERT_THAT(is, SizeIs(want.size()));
  for (size_t i = 0; i < is.size(); ++i) {
    EXPECT_EQ(is[i].name, want[i].name);
    EXPECT_EQ(is[i].eval_images, want[i].eval_images);
    ASSERT_EQ(is[i].values.size(), want[i].values.size());
    for (const auto& [name, value] : want[i].values) {
      EXPECT_NEAR(is[i].values.at(name), value, 1e-6) << is[i].name << " " << name;
    }
    EXPECT_TRUE(is[i].final);
  }
}

class EvaluateTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(OneToThreeRanks, EvaluateTest, ::testing::Values(1, 2, 3));

TEST_P(EvaluateTest, MeasuresWhatTheRunMeasuredAtItsEndAndWritesNothing) {
  const TemporaryDirectory folder;
  const auto want = TrainParent(folder);
  const auto results = RunGang(Options(folder, GetParam(), EvaluationJob(kFrom), "measure00000"));
  for (const auto& result : results) {
    ASSERT_EQ(result.exit_code, 0) << result.error;
    EXPECT_TRUE(result.observed.finished);
    EXPECT_EQ(result.observed.checkpoint, "");
    EXPECT_THAT(RecordsOf<link::StepRecord>(result), IsEmpty());
    EXPECT_THAT(RecordsOf<link::CheckpointInfo>(result), IsEmpty());
  }
  const auto evals = RecordsOf<link::EvalRecord>(results[0]);
  ExpectSameValues(evals, want);
  for (const link::EvalRecord& eval : evals) {
    EXPECT_EQ(eval.step, 20);
    EXPECT_EQ(eval.images, 20 * 64);
  }
  EXPECT_THAT(*PosixFileSystem().List(folder.path()), ::testing::ElementsAre("runs"));
  EXPECT_THAT(*PosixFileSystem().List(folder.path() + "/runs"),
              ::testing::ElementsAre("longrun00000"));
}

TEST_P(EvaluateTest, AGenerationThatBreaksStartsOver) {
  if (GetParam() == 1) GTEST_SKIP() << "one rank has no collective that could fail";
  const TemporaryDirectory folder;
  const auto want = TrainParent(folder);
  TestGang::Options options = Options(folder, GetParam(), EvaluationJob(kFrom), "measure00000");
  options.faults[1] = "fail_collective@evaluate,generation=1";
  options.recoveries_max = 1;
  const auto results = RunGang(options);
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  const auto evals = RecordsOf<link::EvalRecord>(results[0]);
  ExpectSameValues({evals.end() - 3, evals.end()}, want);
}

TEST(EvaluateWeightsTest, WeightsAloneAreEvaluatedAtStepZero) {
  const TemporaryDirectory folder;
  const auto want = TrainParent(folder);
  const std::string weights = MakeWeightsOnly(folder);
  const auto results =
      RunGang(Options(folder, 2, EvaluationJob(weights) + "precision: f32\n", "measure00000"));
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  const auto evals = RecordsOf<link::EvalRecord>(results[0]);
  ExpectSameValues(evals, want);
  EXPECT_EQ(evals[0].step, 0);
  EXPECT_EQ(evals[0].images, 0);
}

TEST(EvaluateWeightsTest, ARunThatBeginsWithWeightsBeginsAtStepZeroAndNeedNotShareTheBatch) {
  const TemporaryDirectory folder;
  TrainParent(folder);
  const std::string weights = MakeWeightsOnly(folder);
  const std::map<std::string, std::string> job = {
      {"schedule", "{warmup: 0 steps, total: 12 steps}"},
      {"batch", "{global: 32}"},
      {"seed", "9"},
      {"checkpoint", "{dir: runs, every: 5 steps}"}};
  auto tuned_job = job;
  tuned_job["from"] = weights;
  const auto fresh = RunGang(Options(folder, 1, TinyJob(job), "fresh0000000"));
  const auto tuned = RunGang(Options(folder, 1, TinyJob(tuned_job), "tuned0000000"));
  ASSERT_EQ(tuned[0].exit_code, 0) << tuned[0].error;
  const auto steps = RecordsOf<link::StepRecord>(tuned[0]);
  ASSERT_THAT(steps, SizeIs(12));
  EXPECT_EQ(steps.front().step, 1);
  EXPECT_LT(steps.front().loss, RecordsOf<link::StepRecord>(fresh[0]).front().loss)
      << "it begins with what was learned";
  EXPECT_EQ(RecordsOf<link::CheckpointInfo>(tuned[0]).front().parent,
            weights.substr(weights.find('/') + 1));
}

TEST(EvaluateRefusalTest, WhatCannotBeEvaluatedIsAConfigurationError) {
  const TemporaryDirectory folder;
  TrainParent(folder);
  const auto error_of = [&](const std::string& job) {
    const auto results = RunGang(Options(folder, 1, job, "measure00000"));
    EXPECT_EQ(results[0].exit_code, 78) << results[0].error;
    return results[0].error;
  };
  EXPECT_THAT(error_of(EvaluationJob("runs/longrun00000/a0001.g0001.step_000000099")),
              HasSubstr("does not exist below"));
  EXPECT_THAT(error_of(EvaluationJob("longrun00000")), HasSubstr("from: was 'longrun00000'"));
  std::string wider = EvaluationJob(kFrom);
  wider.replace(wider.find("width: 32"), 9, "width: 64");
  EXPECT_THAT(error_of(wider), HasSubstr("model: width is 64, the checkpoint's run has 32"));
}

TEST(EvaluateProgramTest, VitscaleTrainRunsAnEvaluationToo) {
  const TemporaryDirectory folder;
  TrainParent(folder);
  const std::string job = folder.path() + "/measure.yaml", log = folder.path() + "/log";
  std::ofstream(job) << EvaluationJob(kFrom);
  ChildProcess program({VITSCALE_TRAIN, job, "--checkpoint-root=" + folder.path(),
                        "--data-root=" + folder.path(), "--threads=1"},
                       log);
  EXPECT_EQ(program.Wait(), 0) << ReadText(log);
  EXPECT_THAT(ReadText(log), HasSubstr("val.top1"));
  EXPECT_THAT(ReadText(log), HasSubstr("few.5shot"));
  EXPECT_THAT(ReadText(log), HasSubstr("other.loss"));
}

}  // namespace
}  // namespace vitscale
