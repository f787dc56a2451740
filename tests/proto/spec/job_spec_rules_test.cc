// What a job file may not say; each fault names its field and what was wanted.

#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/proto/spec/job_spec_cases.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct BadCase {
  const char* set;
  const char* want;
};
class BadValueTest : public testing::TestWithParam<BadCase> {};

TEST_P(BadValueTest, IsOneFaultThatNamesFieldAndWish) {
  EXPECT_THAT(OneFault(kGood, {GetParam().set}), HasSubstr(GetParam().want)) << GetParam().set;
}

INSTANTIATE_TEST_SUITE_P(
    Rules, BadValueTest,
    testing::Values(
        BadCase{"batch.micro=100",
                "batch.micro (--set): was 100, wanted a divisor of batch.global, which is 256"},
        BadCase{"batch.micro=256", "wanted at least one for each"},
        BadCase{"batch.micro=-1", "batch.micro (--set): was -1, wanted 0 to 256"},
        BadCase{"batch.global=1", "wanted at least one image for each of 2 workers"},
        BadCase{"batch.global=-5", "batch.global (--set): was -5, wanted 1 to 1048576"},
        BadCase{"resources.workers.min=0",
                "resources.workers.min (--set): was 0, wanted 1 to 1024"},
        BadCase{"resources.workers.max=1", "wanted at least min, which is 2"},
        BadCase{"resources.workers.max=3",
                "differ; this version trains with a fixed number of workers"},
        BadCase{"resources.device=gpu", "wanted any, cpu or cuda"},
        BadCase{"resources=4",
                "resources (--set): was \"4\", wanted a mapping with keys of workers, device"},
        BadCase{"model.variant=S/16", "has both variant and custom"},
        BadCase{"model.image_size=3", "wanted at least the patch side, which is 4"},
        BadCase{"model.image_size=4096", "wanted 4 to 2048"},
        BadCase{"model.channels=2", "wanted 1 or 3"},
        BadCase{"model.classes=0", "model.classes (--set): was 0"},
        BadCase{"model.head_bias=-1000", "wanted -100 to 100"},
        BadCase{"model.head_bias=nan", "wanted a finite number"},
        BadCase{"optimizer.lr=0x10", "wanted a finite number in decimal digits"},
        BadCase{"optimizer.lr=1e-400", "wanted a number that is not too small"},
        BadCase{"model.custom.width=65", "wanted a multiple of heads, which is 2"},
        BadCase{"model.custom.heads=16", "gives a width per head of 4, wanted a multiple of 8"},
        BadCase{"model.custom.depth=0", "model.custom.depth (--set): was 0, wanted 1 to 512"},
        BadCase{"model.custom.width=9999999999", "whole number from -2147483648"},
        BadCase{"model.classes=\"10\"", "was \"10\", wanted a whole number"},
        BadCase{"data.train.format=webdataset", "webdataset is not read by this version"},
        BadCase{"data.train.label_kind=sparse", "not read by this version"},
        BadCase{"data.train.format=webdatasets", "wanted idx, folder or synthetic"},
        BadCase{"data.train.label_kind=one_hot", "was \"one_hot\", wanted class_id"},
        BadCase{"on_divergence.policy=stop", "wanted fail or skip"},
        BadCase{"data.train.take=-1", "data.train.take"},
        BadCase{"data.train.path=x", "does not go with format idx"},
        BadCase{"data.preprocess=flip_rl", "unknown op \"flip_rl\", did you mean \"flip_lr\"?"},
        BadCase{"data.preprocess=value_range(1,-1)", "first number below its second"},
        BadCase{"data.preprocess=value_range(1)", "was given 1 arguments, wanted 2"},
        BadCase{"data.preprocess=resize()", "\"resize\" was given 0 arguments, wanted 1 to 2"},
        BadCase{"data.preprocess=resize(28.5)", "a side of 28.5, wanted whole pixels, 1 to 4096"},
        BadCase{"data.preprocess=resize_small(0)", "a side of 0, wanted whole pixels"},
        BadCase{"data.preprocess=inception_crop(28,50,20)", "an area of 50 to 20 per cent"},
        BadCase{"data.preprocess=inception_crop(28,0)", "wanted above 0 to 100"},
        BadCase{"data.preprocess=flip_lr|decode", "\"decode\" must be the first op"},
        BadCase{"data.preprocess=randaug(2,10)", "\"randaug\" is not run by this version"},
        BadCase{"data.preprocess=inception_crop(32)",
                "makes images of 32x32, wanted 28x28, which is model.image_size"},
        BadCase{"data.preprocess=resize(20)|central_crop(28)",
                "\"central_crop\" cuts 28x28 from images whose shorter side is 20"},
        BadCase{"evals[0].preprocess=random_crop(28)", "\"random_crop\" is random"},
        BadCase{"evals[0].data={format: folder, path: val}",
                "leaves images as large as their files, wanted 28x28"},
        BadCase{"evals[1]={name: x, preprocess: resize(28), data: {format: folder}}",
                "evals[1].data.path: is missing, wanted the path of a folder"},
        BadCase{"evals[1]={name: x, preprocess: resize(28), data: {format: folder, path: a, "
                "images: b}}",
                "evals[1].data.images (--set): does not go with format folder"},
        BadCase{"data.preprocess=value_range(0,x)", "wanted a number"},
        BadCase{"data.preprocess=flip_lr|flip_lr", "given twice"},
        BadCase{"data.preprocess=value_range(0,1)|flip_lr", "must be the last op"},
        BadCase{"evals[0].preprocess=flip_lr",
                "\"flip_lr\" is random, wanted none in an evaluation"},
        BadCase{"optimizer.beta1=1", "wanted 0 to below 1"},
        BadCase{"optimizer.clip_norm=-1", "optimizer.clip_norm"},
        BadCase{"optimizer.name=adafacter", "did you mean \"adafactor\"?"},
        BadCase{"optimizer.weight_decay.body=-0.1", "optimizer.weight_decay.body"},
        BadCase{"schedule.warmup=-1 steps", "schedule.warmup"},
        BadCase{"schedule.timescale=0 steps", "wanted more than 0"},
        BadCase{"schedule.total=0 epochs", "wanted more than 0"},
        BadCase{"schedule.total=1000 steps", "longer than the total of \"1000 steps\""},
        BadCase{"schedule.total=100 steps", "wanted at most the total"},
        BadCase{"schedule.cooldown=11 epochs", "longer than the total of \"10 epochs\""},
        BadCase{"evals[0].name=Val", "evals[0].name"},
        BadCase{"evals.0.kind=fewshot", "evals[0].support: is missing, wanted the images"},
        BadCase{"evals.0.shots=[1]", "evals[0].shots (--set): goes with kind fewshot"},
        BadCase{"evals.0.support={format: synthetic, synthetic_images: 9}",
                "evals[0].support (--set): goes with kind fewshot"},
        BadCase{"evals[1]={name: x, kind: fewshot, data: {format: synthetic, synthetic_images: 5}, "
                "support: {format: idx, images: a}}",
                "evals[1].support.labels: is missing"},
        BadCase{"evals[0].every=0 steps", "wanted more than 0"},
        BadCase{"evals[1]={name: val, data: {format: synthetic, synthetic_images: 5}}",
                "evals[1].name (--set): was \"val\" again"},
        BadCase{"evals[5].name=x", "no element \"5\" in a list of 1"},
        BadCase{"evals[0].data.labels=a/../b", "without \"..\""},
        BadCase{"checkpoint.dir=../../etc", "checkpoint.dir (--set)"},
        BadCase{"checkpoint.every=0 steps", "wanted more than 0"},
        BadCase{"checkpoint.keep.last=-2", "checkpoint.keep.last"},
        BadCase{"checkpoint.keep.every=often", "checkpoint.keep.every"},
        BadCase{"on_divergence.policy=rollback", "rollback is not done by this version"},
        BadCase{"on_divergence.max=0", "wanted 1 to 1000"}, BadCase{"grace=2h", "wanted 1s to 1h"},
        BadCase{"grace=soon", "wanted a duration"},
        BadCase{"priority=1001", "wanted -1000 to 1000"},
        BadCase{"precision=f16", "wanted auto, bf16 or f32"},
        BadCase{"recompute=all", "wanted auto, none, gelu_layernorm or block"},
        BadCase{"model.residual=f16", "wanted f32 or bf16"},
        BadCase{"seed=-1", "whole number from 0"},
        BadCase{"from=abc/def", "from (--set): was \"abc/def\", wanted a checkpoint folder"},
        BadCase{"name=a_b", "wanted 1 to 63 of [a-z0-9-]"},
        BadCase{"labels.x y=1", "wanted path=value"},
        BadCase{"labels={a: {b: c}}", "labels.a (--set): was a mapping, wanted text"},
        BadCase{"nonsense", "wanted path=value"},
        BadCase{"optimizr.lr=1", "did you mean \"optimizer\"?"}, BadCase{"seed=[1", "not YAML"}));

// Good with a few-shot evaluation, `fields` among its own.
std::vector<std::string> FewShotFaults(const std::string& fields) {
  return FaultsOf(
      kGood, {absl::StrCat("evals[1]={name: few, kind: fewshot, ",
                           "data: {format: synthetic, synthetic_images: 5}, ",
                           "support: {format: synthetic, synthetic_images: 50}, ", fields, "}")});
}

TEST(JobSpecTest, FaultsOfAFewShotEvaluationAreSaidByField) {
  EXPECT_THAT(FewShotFaults("shots: [1, 100], l2: [0.0009765625, 524288], seeds: 1"), IsEmpty());
  const auto expect = [](const std::string& fields, const std::string& fault) {
    EXPECT_THAT(FewShotFaults(fields), ElementsAre(HasSubstr(fault))) << fields;
  };
  expect("shots: []", "evals[1].shots (--set): had 0 elements, wanted 1 to 16");
  expect("shots: [1, 0]", "evals[1].shots[1] (--set): was 0, wanted 1 to 10000");
  expect("shots: [5, 5]", "evals[1].shots[1] (--set): was 5 again");
  expect("l2: [0]", "evals[1].l2[0] (--set): was 0, wanted 1e-04 to 1e+12");
  expect("l2: [1, 2, 1]", "evals[1].l2[2] (--set): was 1 again");
  expect("l2: [nan]", "evals[1].l2[0] (--set)");
  expect("seeds: 0", "evals[1].seeds (--set): was 0, wanted 1 to 100");
}

TEST(JobSpecTest, AFolderNeedsOpsThatGiveEveryImageTheModelsSize) {
  const auto train = [](const std::string& ops) {
    return OneFault(
        kGood, {"data.train={format: folder, path: train}", "evals=", "data.preprocess=" + ops});
  };
  EXPECT_THAT(train("flip_lr"), HasSubstr("leaves images as large as their files, wanted 28x28, "
                                          "which is model.image_size: add inception_crop(28)"));
  EXPECT_THAT(train("resize_small(28)"),
              HasSubstr("leaves the longer side as it comes after \"resize_small\""));
  EXPECT_THAT(train("resize_small(20)|central_crop(28)"),
              HasSubstr("cuts 28x28 from images whose shorter side is 20"));
}

TEST(JobSpecTest, ReservedFeaturesAloneAreUnimplementedAmongOtherFaultsInvalid) {
  EXPECT_THAT(ParseJobSpec(kGood, SpecFormat::kAuto, {"on_divergence.policy=rollback"}),
              StatusIs(absl::StatusCode::kUnimplemented));
  EXPECT_THAT(
      ParseJobSpec(kGood, SpecFormat::kAuto, {"on_divergence.policy=rollback", "priority=-5000"}),
      StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(JobSpecTest, SpecsFromTheWireAreCheckedToo) {
  v1::JobSpec spec = Good();
  spec.set_precision(static_cast<v1::Precision>(77));
  spec.mutable_optimizer()->set_lr(std::numeric_limits<double>::quiet_NaN());
  spec.mutable_data()->mutable_train()->set_images("a\nb");
  for (int i = 0; i < 20; ++i) *spec.add_evals() = spec.evals(0);
  std::vector<std::string> fields;
  for (const Fault& fault : Validate(spec)) fields.push_back(fault.field);
  EXPECT_THAT(fields, testing::UnorderedElementsAre("precision", "optimizer.lr",
                                                    "data.train.images", "evals"));
}

}  // namespace
}  // namespace vitscale
