// What a replica gives as features: the very numbers that the head would see.

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "kernels/base/philox.h"
#include "tests/status_matchers.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/trainer/engine/replica.h"

namespace vitscale {
namespace {

constexpr int64_t kBatch = 6;

PlanRequest Request(PoolKind pool, int representation_size, Precision precision) {
  PlanRequest request;
  request.model.SetShape({4, 32, 2, 2, 48});
  request.model.image_size = 12;
  request.model.channels = 1;
  request.model.classes = 5;
  request.model.pool = pool;
  request.model.representation_size = representation_size;
  request.model.loss = LossKind::kSoftmax;
  request.precision = precision;
  request.batch_micro = kBatch;
  return request;
}

Batch SomeBatch(uint64_t seed) {
  Draws draws(seed, DrawPurpose::kTest, 0, 0);
  Batch batch;
  batch.images.resize(kBatch * 12 * 12);
  for (uint8_t& pixel : batch.images) pixel = static_cast<uint8_t>(draws.Below(256));
  batch.augment.assign(3 * kBatch, 0);
  for (int64_t i = 0; i < kBatch; ++i) batch.labels.push_back(static_cast<int32_t>(i % 5));
  batch.valid.assign(kBatch, 1.0f);
  batch.samples.assign(kBatch, 0);
  return batch;
}

std::unique_ptr<Replica> MakeReplica(const PlanRequest& request) {
  BackendOptions backend;
  backend.threads = 2;
  backend.bf16 = request.precision == Precision::kBf16;
  const Plan plan = MakePlan(request).value();
  auto replica = Replica::Create(backend, plan, OptimizerConfig{}).value();
  EXPECT_THAT(replica->Initialise(3), IsOk());
  // The head begins at zero; here it is not.
  for (const StateTensor& tensor : replica->State()) {
    if (!absl::StartsWith(tensor.name, "params/head/")) continue;
    Draws draws(5, DrawPurpose::kTest, 1, tensor.view.bytes());
    std::vector<float> values(tensor.view.elements());
    for (float& value : values)
      value = static_cast<float>(static_cast<int>(draws.Below(256)) - 128) / 128;
    EXPECT_THAT(
        replica->WriteState(tensor, 0,
                            absl::MakeConstSpan(reinterpret_cast<const std::byte*>(values.data()),
                                                tensor.view.bytes())),
        IsOk());
  }
  EXPECT_THAT(replica->PrepareFeatures(-1, 1), IsOk());
  EXPECT_THAT(replica->PrepareEval(-1, 1), IsOk());
  return replica;
}

std::vector<float> FeaturesOf(Replica& replica, const Batch& batch) {
  std::vector<float> features(kBatch * replica.feature_width());
  EXPECT_THAT(replica.Features(batch, absl::MakeSpan(features)), IsOk());
  return features;
}

float Parameter(Replica& replica, const std::string& name, int64_t index) {
  for (const StateTensor& tensor : replica.State()) {
    if (tensor.name != name) continue;
    float value = 0;
    EXPECT_THAT(
        replica.ReadState(tensor, index * sizeof(value),
                          absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof(value))),
        IsOk());
    return value;
  }
  ADD_FAILURE() << name;
  return 0;
}

// Softmax cross-entropy of the head on these features, in f64.
double LossOf(Replica& replica, const std::vector<float>& features, const Batch& batch) {
  const int64_t width = replica.feature_width();
  double loss = 0;
  for (int64_t i = 0; i < kBatch; ++i) {
    double sum = 0, of_label = 0;
    for (int c = 0; c < 5; ++c) {
      double z = Parameter(replica, "params/head/bias", c);
      for (int64_t j = 0; j < width; ++j) {
        z += double{features[i * width + j]} * Parameter(replica, "params/head/kernel", j * 5 + c);
      }
      sum += std::exp(z);
      if (c == batch.labels[i]) of_label = z;
    }
    loss += std::log(sum) - of_label;
  }
  return loss;
}

struct Case {
  PoolKind pool;
  int representation_size;
  Precision precision;
};

class ReplicaFeaturesTest : public ::testing::TestWithParam<Case> {};

// In bf16 the head rounds features and kernel (2^-9 each, relative) before it multiplies: logits of
// about 10 in size move by a few hundredths. The kernel's values are exact in bf16.
TEST_P(ReplicaFeaturesTest, TheHeadOnThemGivesTheLossOfTheEvaluation) {
  const auto replica =
      MakeReplica(Request(GetParam().pool, GetParam().representation_size, GetParam().precision));
  EXPECT_EQ(replica->feature_width(),
            GetParam().representation_size > 0 ? GetParam().representation_size : 32);
  const Batch batch = SomeBatch(1);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const EvalSums sums, replica->Evaluate(batch));
  const std::vector<float> features = FeaturesOf(*replica, batch);
  const double bound = GetParam().precision == Precision::kBf16 ? 0x1p-6 : 1e-5;
  EXPECT_NEAR(LossOf(*replica, features, batch) / sums.loss, 1, bound);
}

TEST_P(ReplicaFeaturesTest, AnImagesFeaturesDoNotDependOnTheOthersAndRepeatExactly) {
  const auto replica =
      MakeReplica(Request(GetParam().pool, GetParam().representation_size, GetParam().precision));
  const Batch batch = SomeBatch(1);
  Batch mixed = SomeBatch(2);
  std::copy_n(batch.images.begin() + 2 * 144, 144, mixed.images.begin() + 2 * 144);
  const std::vector<float> all = FeaturesOf(*replica, batch), some = FeaturesOf(*replica, mixed);
  EXPECT_EQ(FeaturesOf(*replica, batch), all);
  EXPECT_NE(all, some);
  const int64_t width = replica->feature_width();
  for (int64_t j = 0; j < width; ++j) EXPECT_EQ(all[2 * width + j], some[2 * width + j]) << j;
}

INSTANTIATE_TEST_SUITE_P(Heads, ReplicaFeaturesTest,
                         ::testing::Values(Case{PoolKind::kMap, 0, Precision::kF32},
                                           Case{PoolKind::kMap, 0, Precision::kBf16},
                                           Case{PoolKind::kMap, 24, Precision::kF32},
                                           Case{PoolKind::kMap, 24, Precision::kBf16},
                                           Case{PoolKind::kGap, 0, Precision::kF32},
                                           Case{PoolKind::kGap, 0, Precision::kBf16},
                                           Case{PoolKind::kCls, 0, Precision::kF32},
                                           Case{PoolKind::kCls, 16, Precision::kBf16}));

// The pooled token of a MAP head is given before it is rounded for the head's matmul.
TEST(ReplicaFeaturesMapTest, FeaturesOfAMapHeadAreNotRoundedToBf16) {
  const auto replica = MakeReplica(Request(PoolKind::kMap, 0, Precision::kBf16));
  int64_t rounded = 0;
  const std::vector<float> features = FeaturesOf(*replica, SomeBatch(1));
  for (const float value : features) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    rounded += (bits & 0xffff) == 0;
  }
  EXPECT_LT(rounded, static_cast<int64_t>(features.size()) / 10);
}

}  // namespace
}  // namespace vitscale
