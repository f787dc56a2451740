// Bytes from anywhere: a job file may be torn, edited by a cat, or made to hurt. Never a crash,
// never a spec that the rules would refuse.

#include <string>

#include "google/protobuf/stubs/logging.h"
#include "kernels/base/random.h"
#include "proto/spec/job_spec.h"
#include "proto/spec/message_text.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

constexpr int kMutations = 3000;  // of each format; about a second in all

v1::JobSpec Good() {
  auto spec = ParseJobSpec(R"yaml(
name: a
labels: {k: v, other: "x y"}
model: {custom: {patch: 4, width: 64, depth: 4, heads: 2, mlp_width: 256}, image_size: 28, channels: 1, classes: 10}
data: {train: {format: idx, images: a.gz, labels: b.gz}, preprocess: "resize(32,28)|inception_crop(28,8,90)|flip_lr|value_range(-1,1)"}
optimizer: {lr: 2e-3, weight_decay: {body: 0.1}}
schedule: {warmup: 200 steps, total: 10 epochs}
batch: {global: 256, micro: 64}
evals: [{name: val, kind: fewshot, support: {format: synthetic, synthetic_images: 90},
         data: {format: synthetic, synthetic_images: 9}, every: 1 epoch, shots: [1, 5], l2: [0.5, 1024]}]
)yaml");
  EXPECT_THAT(spec, IsOk());
  return *spec;
}

// Flips, cuts, doubles and swaps: small damage keeps the parsers deep inside the text.
std::string Damaged(std::string text, Random& random) {
  static constexpr absl::string_view kBytes =
      "{}[]:,-\"'#&*!|>%@\n \t0123456789abcdefnul\\<\xff\x01";
  const int edits = 1 + static_cast<int>(random.Next() % 4);
  for (int i = 0; i < edits && !text.empty(); ++i) {
    const size_t at = random.Next() % text.size();
    switch (random.Next() % 5) {
      case 0:
        text[at] = kBytes[random.Next() % kBytes.size()];
        break;
      case 1:
        text.erase(at, 1 + random.Next() % 8);
        break;
      case 2:
        text.insert(at, 1, kBytes[random.Next() % kBytes.size()]);
        break;
      case 3:
        text.insert(at, text.substr(random.Next() % text.size(), random.Next() % 40));
        break;
      case 4:
        text.resize(at);
        break;
    }
  }
  return text;
}

void Torture(const std::string& text, SpecFormat format) {
  const auto random = SeededRandom(20261125);
  int accepted = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string damaged = Damaged(text, *random);
    const auto spec = ParseJobSpec(damaged, format, {"seed=3"});
    if (!spec.ok()) {
      EXPECT_FALSE(StatusToFaults(spec.status()).empty()) << damaged;
      continue;
    }
    ++accepted;
    const auto canonical = Canonicalize(*spec);
    ASSERT_THAT(canonical, IsOk()) << damaged;
    const auto again = ParseJobSpec(ToYaml(*canonical), SpecFormat::kYaml);
    ASSERT_THAT(again, IsOk()) << ToYaml(*canonical);
    EXPECT_EQ(SpecBytes(*again), SpecBytes(*canonical)) << damaged;
  }
  EXPECT_GT(accepted, 0) << "the damage is so heavy that nothing behind the parser is reached";
}

TEST(HostileTest, DamagedYamlNeverCrashesAndWhatIsAcceptedIsWhole) {
  Torture(ToYaml(Good()), SpecFormat::kYaml);
}
TEST(HostileTest, DamagedJsonNeverCrashesAndWhatIsAcceptedIsWhole) {
  Torture(MessageToJson(Good()), SpecFormat::kJson);
}
TEST(HostileTest, DamagedTextprotoNeverCrashesAndWhatIsAcceptedIsWhole) {
  Torture(Good().DebugString(), SpecFormat::kTextproto);
}

TEST(HostileTest, WhatIsNotUtf8IsRefusedWithItsLine) {
  for (const char* bad :
       {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    const auto faults = StatusToFaults(ParseJobSpec(std::string("seed: 1\nname: ") + bad).status());
    ASSERT_EQ(faults.size(), 1u);
    EXPECT_EQ(FaultText(faults[0]), "(line 2): not UTF-8");
  }
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const auto spec, ParseJobSpec(ToYaml(Good()), SpecFormat::kYaml, {"labels.k=Zoë €"}));
  EXPECT_EQ(spec.labels().at("k"), "Zoë €");
}

TEST(HostileTest, BytesOfAnyKindOverTheWireAreRefusedOrWhole) {
  const google::protobuf::LogSilencer
      quiet;  // protobuf complains about each string that is not UTF-8
  const auto random = SeededRandom(7);
  const std::string good = SpecBytes(Good());
  for (int i = 0; i < kMutations; ++i) {
    v1::JobSpec spec;
    if (!spec.ParseFromString(Damaged(good, *random))) continue;
    const auto canonical = Canonicalize(spec);
    if (!canonical.ok()) continue;
    EXPECT_EQ(SpecBytes(*Canonicalize(*canonical)), SpecBytes(*canonical));
  }
}

}  // namespace
}  // namespace vitscale
