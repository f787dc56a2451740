#include "proto/spec/job_spec.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "proto/spec/message_text.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kGood[] = R"(name: fashion-mnist
labels: {team: vision}
resources:
  workers: {min: 2, max: 2}
  device: cpu
model:
  custom: {patch: 4, width: 64, depth: 4, heads: 2, mlp_width: 256}
  image_size: 28
  channels: 1
  classes: 10
  head_bias: -2.2
data:
  train: {format: idx, images: train-images-idx3-ubyte.gz, labels: train-labels-idx1-ubyte.gz}
  preprocess: flip_lr | value_range( -1, 1.0 )
optimizer: {lr: 2e-3}
schedule: {warmup: 200 steps, timescale: 1000 steps, cooldown: 299520 images, total: 10 epochs}
batch: {global: 256}
evals:
  - name: val
    data: {format: idx, images: t10k-images-idx3-ubyte.gz, labels: t10k-labels-idx1-ubyte.gz}
    every: 1 epoch
checkpoint: {dir: runs, every: 500 steps}
seed: 3
)";

// Every fault of a text as "field: text" lines.
std::vector<std::string> FaultsOf(absl::string_view text, const std::vector<std::string>& set = {},
                                  SpecFormat format = SpecFormat::kAuto) {
  std::vector<std::string> lines;
  for (const Fault& fault : StatusToFaults(ParseJobSpec(text, format, set).status())) {
    lines.push_back(FaultText(fault));
  }
  return lines;
}

std::string OneFault(absl::string_view text, const std::vector<std::string>& set = {}) {
  const auto faults = FaultsOf(text, set);
  EXPECT_EQ(faults.size(), 1u) << absl::StrJoin(faults, "\n");
  return absl::StrJoin(faults, "\n");
}

v1::JobSpec Good() {
  auto spec = ParseJobSpec(kGood);
  EXPECT_THAT(spec, IsOk());
  return *spec;
}

// Good with a few-shot evaluation, `fields` among its own.
std::vector<std::string> FewShotFaults(const std::string& fields) {
  return FaultsOf(
      kGood, {absl::StrCat("evals[1]={name: few, kind: fewshot, ",
                           "data: {format: synthetic, synthetic_images: 5}, ",
                           "support: {format: synthetic, synthetic_images: 50}, ", fields, "}")});
}

TEST(JobSpecTest, AFewShotEvaluationHasTheDefaultsOfTheAuthors) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const v1::JobSpec given,
      ParseJobSpec(
          kGood, SpecFormat::kAuto,
          {"evals[0].kind=fewshot", "evals[0].support={format: idx, images: a, labels: b}"}));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::JobSpec spec, Canonicalize(given));
  EXPECT_THAT(spec.evals(0).shots(), ElementsAre(1, 5, 10, 25));
  EXPECT_THAT(spec.evals(0).l2(), ElementsAre(1024));
  EXPECT_EQ(spec.evals(0).seeds(), 3);
  EXPECT_EQ(spec.evals(0).preprocess(), "value_range(-1,1)");
  EXPECT_EQ(spec.evals(0).support().label_kind(), v1::LABEL_KIND_CLASS_ID);
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

TEST(JobSpecTest, ReadsTheWholeFile) {
  const v1::JobSpec spec = Good();
  EXPECT_EQ(spec.name(), "fashion-mnist");
  EXPECT_EQ(spec.labels().at("team"), "vision");
  EXPECT_EQ(spec.resources().workers().max(), 2);
  EXPECT_EQ(spec.resources().device(), v1::DEVICE_CPU);
  EXPECT_EQ(spec.model().custom().width(), 64);
  EXPECT_DOUBLE_EQ(spec.model().head_bias(), -2.2);
  EXPECT_EQ(spec.evals(0).name(), "val");
  EXPECT_EQ(spec.seed(), 3u);
}

TEST(JobSpecTest, CanonicalFormHasEveryDefault) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::JobSpec spec, Canonicalize(Good()));
  EXPECT_EQ(spec.model().pool(), v1::POOL_MAP);
  EXPECT_EQ(spec.model().loss(), v1::LOSS_SIGMOID);
  EXPECT_EQ(spec.precision(), v1::PRECISION_AUTO);
  EXPECT_EQ(spec.recompute(), v1::RECOMPUTE_AUTO);
  EXPECT_EQ(spec.model().residual(), v1::RESIDUAL_F32);
  EXPECT_EQ(spec.optimizer().name(), v1::OPTIMIZER_NAME_ADAFACTOR);
  EXPECT_DOUBLE_EQ(spec.optimizer().beta1(), 0.9);
  EXPECT_DOUBLE_EQ(spec.optimizer().weight_decay().head(), 3.0);
  EXPECT_EQ(spec.schedule().cooldown(), "1170 steps") << "images become steps";
  EXPECT_EQ(spec.schedule().total(), "10 epochs") << "epochs stay";
  EXPECT_EQ(spec.schedule().shift(), "0 steps");
  EXPECT_EQ(spec.data().preprocess(), "flip_lr|value_range(-1,1)");
  EXPECT_EQ(spec.evals(0).preprocess(), "value_range(-1,1)") << "without random ops";
  EXPECT_EQ(spec.evals(0).every(), "1 epochs");
  EXPECT_EQ(spec.checkpoint().keep().last(), 3);
  EXPECT_EQ(spec.grace(), "120s");
}

// What evaluations of a set of folders use unless told otherwise is written out.
TEST(JobSpecTest, EvaluationsOfRandomCropsResizeAndCropTheMiddle) {
  const auto evaluation = [](const std::string& train) {
    const auto spec =
        ParseJobSpec(kGood, SpecFormat::kAuto,
                     {"data.train={format: folder, path: train}",
                      "evals[0].data={format: folder, path: val}", "model.image_size=224",
                      "model.custom.patch=16", "model.channels=3", "data.preprocess=" + train});
    EXPECT_THAT(spec, IsOk());
    const auto canonical = Canonicalize(*spec);
    EXPECT_THAT(canonical, IsOk());
    return canonical->data().preprocess() + " -> " + canonical->evals(0).preprocess();
  };
  EXPECT_EQ(evaluation("decode|inception_crop(224)|flip_lr"),
            "inception_crop(224)|flip_lr|value_range(-1,1) -> "
            "resize_small(256)|central_crop(224)|value_range(-1,1)");
  EXPECT_EQ(evaluation("decode_jpeg_and_inception_crop(224,8,100)|value_range(0, 1)"),
            "inception_crop(224,8)|value_range(0,1) -> "
            "resize_small(256)|central_crop(224)|value_range(0,1)");
  EXPECT_EQ(evaluation("resize_small(256)|random_crop(224)"),
            "resize_small(256)|random_crop(224)|value_range(-1,1) -> "
            "resize_small(256)|central_crop(224)|value_range(-1,1)");
  EXPECT_EQ(evaluation("resize(256,256)|inception_crop(224, 5, 100)"),
            "resize(256)|inception_crop(224)|value_range(-1,1) -> "
            "resize_small(256)|central_crop(224)|value_range(-1,1)");
  EXPECT_EQ(evaluation("resize(224)"),
            "resize(224)|value_range(-1,1) -> resize(224)|value_range(-1,1)");
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

TEST(JobSpecTest, CanonicalFormIsAFixedPointAndItsYamlReadsBackTheSame) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::JobSpec once, Canonicalize(Good()));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::JobSpec twice, Canonicalize(once));
  EXPECT_EQ(SpecBytes(once), SpecBytes(twice));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::JobSpec read, ParseJobSpec(ToYaml(once)));
  EXPECT_EQ(SpecBytes(once), SpecBytes(read)) << ToYaml(once);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::JobSpec json, ParseJobSpec(MessageToJson(once)));
  EXPECT_EQ(SpecBytes(once), SpecBytes(json)) << MessageToJson(once);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::JobSpec text,
                                ParseJobSpec(once.DebugString(), SpecFormat::kTextproto));
  EXPECT_EQ(SpecBytes(once), SpecBytes(text)) << once.DebugString();
}

TEST(JobSpecTest, TheThreeFormatsMeanTheSame) {
  const char* yaml =
      "{name: a, model: {variant: S/16, classes: 10}, data: {train: {format: synthetic, "
      "synthetic_images: 100}}, optimizer: {lr: 0.1}, schedule: {total: 9 steps}, batch: {global: "
      "8}}";
  const char* json = R"({"name": "a", "model": {"variant": "S/16", "classes": 10},
    "data": {"train": {"format": "synthetic", "synthetic_images": 100}},
    "optimizer": {"lr": 0.1}, "schedule": {"total": "9 steps"}, "batch": {"global": 8}})";
  const char* text = R"(name: "a"  # a comment
    model { variant: "S/16" classes: 10 }
    data: < train { format: DATA_FORMAT_SYNTHETIC, synthetic_images: 100 } >
    optimizer { lr: 0.1 } schedule { total: '9 ' 'steps' }; batch { global: 8 })";
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto a, ParseJobSpec(yaml, SpecFormat::kYaml));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto b, ParseJobSpec(json));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto c, ParseJobSpec(text));
  EXPECT_EQ(SpecBytes(a), SpecBytes(b));
  EXPECT_EQ(SpecBytes(a), SpecBytes(c));
}

TEST(JobSpecTest, AllFaultsAreReportedAtOnceWithPathAndLine) {
  const auto faults = FaultsOf(R"(name: Bad Name
modle: {variant: S/16}
model:
  variant: S/16
  image_sise: 224
  classes: many
  pool: mapp
batch:
  global: 0
data: {train: {format: idx, images: ../x, labels: y}}
optimizer: {lr: -1}
schedule: {total: 100, warmup: 5 steps}
)");
  EXPECT_THAT(
      faults,
      testing::UnorderedElementsAre(
          AllOf(HasSubstr("modle (line 2): unknown key, did you mean \"model\"?")),
          AllOf(HasSubstr("model.image_sise (line 5): unknown key, did you mean \"image_size\"?")),
          AllOf(HasSubstr("model.classes (line 6): was \"many\", wanted a whole number")),
          AllOf(HasSubstr(
              "model.pool (line 7): was \"mapp\", wanted map, gap or cls, did you mean \"map\"?")),
          AllOf(HasSubstr("name (line 1): was \"Bad Name\"")),
          AllOf(HasSubstr("batch.global (line 9): was 0, wanted 1 to 1048576")),
          AllOf(HasSubstr("data.train.images (line 10): was \"../x\", wanted a path without")),
          AllOf(HasSubstr("optimizer.lr (line 11): was -1, wanted above 0 to 100")),
          AllOf(HasSubstr("schedule.total (line 12): was \"100\", wanted a length with a unit"))));
}

TEST(JobSpecTest, AnEmptyFileNamesEverythingThatIsRequired) {
  const auto faults = FaultsOf("");
  EXPECT_THAT(faults,
              testing::UnorderedElementsAre(HasSubstr("batch.global: is missing, wanted 1 to"),
                                            HasSubstr("model: has neither variant nor custom"),
                                            HasSubstr("model.classes: is missing, wanted 1 to"),
                                            HasSubstr("data.train.format: is missing"),
                                            HasSubstr("optimizer.lr: is missing"),
                                            HasSubstr("schedule.total: is missing")));
}

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

TEST(JobSpecTest, ReservedFeaturesAloneAreUnimplementedAmongOtherFaultsInvalid) {
  EXPECT_THAT(ParseJobSpec(kGood, SpecFormat::kAuto, {"on_divergence.policy=rollback"}),
              StatusIs(absl::StatusCode::kUnimplemented));
  EXPECT_THAT(
      ParseJobSpec(kGood, SpecFormat::kAuto, {"on_divergence.policy=rollback", "priority=-5000"}),
      StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(JobSpecTest, VariantsAreKnownByNameAndPatch) {
  const std::vector<std::string> no_custom = {"model.custom=", "model.image_size=224"};
  auto with = [&](const std::string& variant) {
    auto set = no_custom;
    set.push_back("model.variant=" + variant);
    return FaultsOf(kGood, set);
  };
  EXPECT_THAT(with("S/16"), IsEmpty());
  EXPECT_THAT(with("g-opt/14"), IsEmpty());
  EXPECT_THAT(with("So400/14"), ElementsAre(HasSubstr("did you mean \"So400m\"?")));
  EXPECT_THAT(with("S"), ElementsAre(HasSubstr("such as \"S/16\"")));
  EXPECT_THAT(with("S/0"), ElementsAre(HasSubstr("model.variant")));
}

TEST(JobSpecTest, OverridesReachListsAndTakeKeysAway) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const auto spec,
      ParseJobSpec(kGood, SpecFormat::kAuto,
                   {"evals[0].name=test",
                    "evals.1={name: extra, data: {format: synthetic, synthetic_images: 5}}",
                    "resources.workers={min: 1, max: 1}", "labels=", "optimizer.clip_norm=0"}));
  EXPECT_EQ(spec.evals(0).name(), "test");
  EXPECT_EQ(spec.evals(1).name(), "extra");
  EXPECT_EQ(spec.resources().workers().max(), 1);
  EXPECT_EQ(spec.labels_size(), 0);
  EXPECT_EQ(spec.optimizer().clip_norm(), 0) << "an explicit 0 is not the default";
}

TEST(JobSpecTest, DuplicateKeysAreFaults) {
  EXPECT_THAT(OneFault(absl::StrCat(kGood, "seed: 4\n")),
              HasSubstr("seed (line 24): given twice, first in line 23"));
  EXPECT_THAT(FaultsOf("{\"seed\": 1,\n\"seed\": 2}"), testing::Contains(HasSubstr("given twice")));
  EXPECT_THAT(FaultsOf("seed: 1 seed: 2 model {}", {}, SpecFormat::kTextproto),
              testing::Contains(HasSubstr("seed (line 1): given more than once")));
}

TEST(JobSpecTest, SyntaxErrorsNameTheLine) {
  EXPECT_THAT(OneFault("name: a\nmodel: [1,\n"), AllOf(HasSubstr("not YAML"), HasSubstr("line")));
  EXPECT_THAT(OneFault("{\"name\": \"a\",\n\"seed\": }"),
              AllOf(HasSubstr("line 2"), HasSubstr("not JSON")));
  EXPECT_THAT(OneFault("name: 'a'\nmodel { variant: }"),
              AllOf(HasSubstr("line 2"), HasSubstr("not textproto")));
  EXPECT_THAT(OneFault("- a\n- b\n"), HasSubstr("was a list, wanted a mapping"));
  EXPECT_THAT(OneFault("name: a\n---\nname: b\n"), HasSubstr("more than one document"));
}

TEST(JobSpecTest, JsonFaultsNameTheLineOfTheirKey) {
  const auto faults = FaultsOf("{\"name\": \"a\",\n \"seed\": -1,\n \"batch\": {\"global\": 0\n}}");
  EXPECT_THAT(faults, testing::Contains(HasSubstr("seed (line 2)")));
  EXPECT_THAT(faults, testing::Contains(HasSubstr("batch.global (line 3)")));
}

TEST(JobSpecTest, HostileFilesAreRefusedQuickly) {
  std::string bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    const std::string name(1, c), before(1, c - 1);
    absl::StrAppend(&bomb, name, ": &", name, " [*", before);
    for (int i = 0; i < 8; ++i) absl::StrAppend(&bomb, ", *", before);
    absl::StrAppend(&bomb, "]\n");
  }
  EXPECT_THAT(OneFault(bomb), HasSubstr("more than 20000 values"));
  EXPECT_THAT(OneFault(std::string(200, '[')), HasSubstr("nested deeper than 32"));
  EXPECT_THAT(OneFault(std::string(100000, '[')), HasSubstr("nested deeper than 32"));
  EXPECT_THAT(OneFault("{\"a\":" + std::string(100000, '[')), HasSubstr("nested deeper than 32"));
  std::string nested;
  for (int i = 0; i < 1000; ++i) nested += "model {";
  EXPECT_THAT(OneFault(nested), HasSubstr("nested deeper than 32"));
  EXPECT_THAT(OneFault(std::string((1 << 20) + 1, 'x')), HasSubstr("wanted at most 1048576"));
  EXPECT_THAT(OneFault("name: " + std::string(5000, 'x')), HasSubstr("wanted at most 4096"));
  EXPECT_THAT(OneFault("a: &a [*a]"), HasSubstr("alias"));
  EXPECT_THAT(FaultsOf("\xff\xfe\x00"), testing::Not(IsEmpty()));
}

TEST(JobSpecTest, AliasesWork) {
  const std::string text = absl::StrReplaceAll(
      kGood,
      {{"train: {format", "train: &t {format"},
       {"data: {format: idx, images: t10k-images-idx3-ubyte.gz, labels: t10k-labels-idx1-ubyte.gz}",
        "data: *t"}});
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto spec, ParseJobSpec(text));
  EXPECT_EQ(spec.evals(0).data().images(), "train-images-idx3-ubyte.gz");
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

TEST(JobSpecTest, FormatFollowsTheEndingOfTheFile) {
  EXPECT_EQ(FormatOfPath("a/job.yaml"), SpecFormat::kYaml);
  EXPECT_EQ(FormatOfPath("job.YML"), SpecFormat::kYaml);
  EXPECT_EQ(FormatOfPath("job.json"), SpecFormat::kJson);
  EXPECT_EQ(FormatOfPath("job.textproto"), SpecFormat::kTextproto);
  EXPECT_EQ(FormatOfPath("-"), SpecFormat::kAuto);
}

}  // namespace
}  // namespace vitscale
