#include "worker/config/job_config.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/files.h"
#include "proto/spec/job_spec.h"
#include "proto/spec/rules.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kJob[] = R"yaml(
name: fashion
resources: {workers: {min: 2, max: 2}}
model: {custom: {patch: 4, width: 64, depth: 4, heads: 2, mlp_width: 256}, image_size: 28, channels: 1,
        classes: 10, head_bias: -2.2, pool: cls, loss: softmax}
data: {train: {format: idx, images: a, labels: b, take: 60000}, preprocess: "resize(40,36)|inception_crop(28,10,90)|flip_lr|value_range(0,1)"}
optimizer: {name: adamw, lr: 2e-3, weight_decay: {body: 0.1}}
schedule: {warmup: 200 steps, timescale: 1000 steps, cooldown: 5 epochs, total: 10 epochs}
batch: {global: 256, micro: 128}
evals: [{name: val, data: {format: synthetic, synthetic_images: 100}, every: 1 epoch},
        {name: end, data: {format: synthetic, synthetic_images: 100}}]
checkpoint: {dir: runs, every: 12800 images}
on_divergence: {policy: skip, max: 5}
precision: bf16
seed: 7
)yaml";

TEST(JobConfigTest, HoldsWhatTheFileSays) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const JobConfig job, ParseJobConfig(kJob, "job.yaml"));
  EXPECT_EQ(job.name, "fashion");
  EXPECT_EQ(job.workers, 2);
  EXPECT_EQ(job.model.width, 64);
  EXPECT_EQ(job.model.heads, 2);
  EXPECT_EQ(job.model.mlp_width, 256);
  EXPECT_EQ(job.model.pool, PoolKind::kCls);
  EXPECT_EQ(job.model.loss, LossKind::kSoftmax);
  EXPECT_EQ(job.model.position, PositionKind::kLearned);
  EXPECT_EQ(job.optimizer.kind, OptimizerKind::kAdamW);
  EXPECT_DOUBLE_EQ(job.optimizer.learning_rate, 2e-3);
  EXPECT_DOUBLE_EQ(job.optimizer.decay_body, 0.1);
  EXPECT_DOUBLE_EQ(job.optimizer.decay_head, 3.0);
  EXPECT_EQ(job.train.images, "a");
  EXPECT_EQ(job.train.take, 60000);
  EXPECT_EQ(
      job.preprocess,
      (Preprocess{{{ImageOpKind::kResize, 40, 36}, {ImageOpKind::kInceptionCrop, 28, 28, 0.1, 0.9}},
                  true,
                  0,
                  1}));
  EXPECT_EQ(job.evals[0].preprocess,
            (Preprocess{{{ImageOpKind::kResizeSmall, 32, 32}, {ImageOpKind::kCentralCrop, 28, 28}},
                        false,
                        0,
                        1}));
  EXPECT_EQ(job.evals[0].data.format, DataFormat::kSynthetic);
  EXPECT_EQ(job.checkpoint.every, Length::Steps(50));
  EXPECT_EQ(job.on_divergence.policy, DivergencePolicy::kSkip);
  EXPECT_EQ(job.on_divergence.max, 5);
  EXPECT_EQ(job.precision, Precision::kBf16);
  EXPECT_EQ(job.seed, 7u);
  EXPECT_EQ(job.grace, absl::Seconds(120));
}

TEST(JobConfigTest, TheJobFilesThatWeDeployAreGood) {
  const std::string folder = VITSCALE_SOURCE_DIR "/deploy/jobs";
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto names, PosixFileSystem().List(folder));
  EXPECT_GE(names.size(), 2u);
  for (const std::string& name : names) {
    EXPECT_THAT(LoadJobConfig(folder + "/" + name), IsOk()) << name;
  }
  VITSCALE_ASSERT_OK_AND_ASSIGN(const JobConfig job, LoadJobConfig(folder + "/image_folder.yaml"));
  EXPECT_EQ(job.train.format, DataFormat::kFolder);
  EXPECT_EQ(job.train.path, "imagenet/train");
}

TEST(JobConfigTest, CanonicalBytesGiveTheSameJob) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const JobConfig job, ParseJobConfig(kJob, "job.yaml"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const JobConfig again, JobConfigFromCanonical(job.canonical_bytes));
  EXPECT_EQ(job.canonical_bytes, again.canonical_bytes);
  EXPECT_EQ(job.canonical_text, again.canonical_text);
  EXPECT_THAT(JobConfigFromCanonical("\xff\xff"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(JobConfigTest, LengthsBecomeStepsOnceTheDataIsKnown) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const JobConfig job, ParseJobConfig(kJob, "job.yaml"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const RunLengths run, ResolveLengths(job, 60000));
  EXPECT_EQ(run.steps_per_epoch, 234);
  EXPECT_EQ(run.total_steps, 2340);
  EXPECT_EQ(run.schedule.warmup, 200);
  EXPECT_EQ(run.schedule.timescale, 1000);
  EXPECT_EQ(run.schedule.cooldown, 1170);
  EXPECT_EQ(run.checkpoint_every, 50);
  EXPECT_EQ(run.keep_every, 0);
  EXPECT_THAT(run.eval_every, testing::ElementsAre(234, 0));
}

TEST(JobConfigTest, LengthsThatDoNotFitNameTheirField) {
  const auto resolve = [](const std::vector<std::string>& set, int64_t images) {
    const auto job = ParseJobConfig(kJob, "job.yaml", set);
    EXPECT_THAT(job, IsOk());
    return ResolveLengths(*job, images);
  };
  EXPECT_THAT(resolve({}, 255), StatusIs(absl::StatusCode::kInvalidArgument,
                                         AllOf(HasSubstr("data.train"), HasSubstr("255"))));
  EXPECT_THAT(
      resolve({"schedule.warmup=1200 steps"}, 60000),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("longer than the total of 2340")));
  EXPECT_THAT(resolve({"evals[0].every=0.001 epochs"}, 60000),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("evals[0].every")));
}

TEST(JobConfigTest, PlanRequestCarriesModelBatchAndRange) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const JobConfig job, ParseJobConfig(kJob, "job.yaml"));
  const PlanRequest request = PlanRequestFor(job, Precision::kF32);
  EXPECT_EQ(request.batch_global, 256);
  EXPECT_EQ(request.batch_micro, 128);
  EXPECT_EQ(request.range_min, 0.0f);
  EXPECT_EQ(request.range_max, 1.0f);
  EXPECT_EQ(request.optimizer, OptimizerKind::kAdamW);
  EXPECT_EQ(request.recompute, RecomputeLevel::kAuto);
  EXPECT_EQ(request.model.residual, DType::kF32);
  EXPECT_TRUE(request.training);
}

// A program has the range of its preprocessing built in; where two evaluations share one, they
// share the program.
TEST(JobConfigTest, ThePlanHasAProgramForEachKindAndRangeOfTheEvaluations) {
  const auto plan_of = [](const std::string& evals) {
    return PlanRequestFor(ParseJobConfig(kJob, "job.yaml", {"evals=" + evals}).value(),
                          Precision::kF32);
  };
  EXPECT_EQ(plan_of("[]").eval_programs, 0);
  EXPECT_EQ(plan_of("[]").feature_programs, 0);
  const std::string set = "data: {format: synthetic, synthetic_images: 8}";
  const std::string shots =
      "kind: fewshot, shots: [1], support: {format: synthetic, synthetic_images: 8}, " + set;
  const PlanRequest several = plan_of("[{name: a, " + set + "}, {name: b, " + set +
                                      "}, {name: c, preprocess: 'value_range(-1,1)', " + set +
                                      "}, {name: d, " + shots + "}, {name: e, " + shots + "}]");
  EXPECT_EQ(several.eval_programs, 2);
  EXPECT_EQ(several.feature_programs, 1);
}

TEST(JobConfigTest, RecomputeAndResidualReachThePlan) {
  for (const auto& [word, level] :
       {std::pair{"auto", RecomputeLevel::kAuto}, std::pair{"none", RecomputeLevel::kNone},
        std::pair{"gelu_layernorm", RecomputeLevel::kGeluAndLayerNorm},
        std::pair{"block", RecomputeLevel::kBlock}}) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(
        const JobConfig job,
        ParseJobConfig(kJob, "job.yaml",
                       {absl::StrCat("recompute=", word), "model.residual=bf16"}));
    EXPECT_EQ(PlanRequestFor(job, Precision::kF32).recompute, level) << word;
    EXPECT_EQ(PlanRequestFor(job, Precision::kF32).model.residual, DType::kBf16);
  }
}

TEST(JobConfigTest, FaultsNameTheFile) {
  EXPECT_THAT(ParseJobConfig("seed: x", "bad.yaml"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("bad.yaml"), HasSubstr("seed (line 1)"))));
  EXPECT_THAT(LoadJobConfig("/no/such/job.yaml"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/job.yaml")));
}

TEST(VariantTest, TheJobFileKnowsTheVariantsOfTheModel) {
  std::set<std::string> sizes(VariantSizes().begin(), VariantSizes().end()), model_sizes;
  for (const std::string& name : VariantNames()) {
    model_sizes.insert(std::vector<std::string>(absl::StrSplit(name, '/'))[0]);
  }
  EXPECT_EQ(sizes, model_sizes);
  for (const std::string& size : sizes) EXPECT_THAT(VariantByName(size + "/16"), IsOk());
}

}  // namespace
}  // namespace vitscale
