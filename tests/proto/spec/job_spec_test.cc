// What a job file means: its formats, defaults, canonical form and overrides.

#include <limits>

#include "absl/strings/str_replace.h"
#include "proto/spec/message_text.h"
#include "tests/proto/spec/job_spec_cases.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

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

TEST(JobSpecTest, AliasesWork) {
  const std::string text = absl::StrReplaceAll(
      kGood,
      {{"train: {format", "train: &t {format"},
       {"data: {format: idx, images: t10k-images-idx3-ubyte.gz, labels: t10k-labels-idx1-ubyte.gz}",
        "data: *t"}});
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto spec, ParseJobSpec(text));
  EXPECT_EQ(spec.evals(0).data().images(), "train-images-idx3-ubyte.gz");
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
