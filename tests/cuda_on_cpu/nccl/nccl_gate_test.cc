// Whole steps of two ranks on devices of their own: what an aborted sum leaves of parameters and
// state.

#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/hash.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda_on_cpu/nccl/nccl_gang.h"
#include "tests/status_matchers.h"
#include "worker/model/vit.h"
#include "worker/plan/plan.h"
#include "worker/plan/schedule.h"

namespace vitscale::cuda {
namespace {

using Bytes = std::vector<std::byte>;

constexpr int kRanks = 2;
constexpr Arena kState[] = {Arena::kParameters, Arena::kMomentum, Arena::kSecondMoment,
                            Arena::kAverage};

PlanRequest Request(OptimizerKind optimizer) {
  PlanRequest request;
  request.model.SetShape({.patch = 4, .width = 32, .depth = 2, .heads = 2, .mlp_width = 48});
  request.model.image_size = 8;
  request.model.classes = 5;
  request.optimizer = optimizer;
  request.precision = Precision::kF32;
  request.batch_micro = 2;
  request.batch_global = kRanks * request.batch_micro;
  request.bucket_bytes = 8 << 10;
  request.polyak = true;
  return request;
}

// One rank's model, on cuda:<rank>.
class Model {
 public:
  Model(int rank, OptimizerKind optimizer)
      : rank_(rank), plan_(MakePlan(Request(optimizer)).value()) {
    backend_ = CreateCudaBackend({.device = absl::StrCat("cuda:", rank)}).value();
    Check(backend_->Allocate(plan_.arena_bytes));
    Check(WriteConstants(plan_.layout, *backend_));
    OptimizerConfig config;
    config.kind = optimizer;
    config.learning_rate = 1e-2;
    config.polyak_decay = 0.5;
    step_ = backend_->Prepare(BuildStep(plan_.layout, {true, true})).value();
    update_ = backend_->Prepare(BuildUpdate(plan_.layout, config)).value();
    prepare_ = backend_->Prepare(BuildPrepare(plan_.layout)).value();
    const ParamTable& table = plan_.layout.table;
    std::vector<float> parameters(table.arena_elements());
    Check(InitializeParameters(table, /*seed=*/1, absl::MakeSpan(parameters)));
    Write(Arena::kParameters, BytesOf(parameters));
    Check(backend_->Run(*prepare_, {}, nullptr));
  }

  int buckets() const { return static_cast<int>(plan_.layout.buckets.size()); }
  absl::Span<float> BucketValues(int bucket) {
    const Bucket& slice = plan_.layout.buckets[bucket];
    const auto bytes =
        backend_->DeviceBytes(Arena::kGradients).subspan(slice.offset_bytes, slice.bytes);
    return absl::MakeSpan(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
  }
  // Part 1 of a step; images are those of this rank.
  void RunPartOne(int64_t step, MarkerSink* sink) {
    WriteInput(step);
    Check(backend_->Run(*step_, {}, sink));
  }
  // Part 2.
  void Update(int64_t step, bool apply) {
    StepScalars scalars;
    scalars.step = step;
    scalars.beta2 = AdafactorBeta2(step, 0.999);
    scalars.gradient_scale = 1.0f / static_cast<float>(plan_.request.batch_global);
    scalars.apply = apply ? 1 : 0;
    Check(backend_->Run(*update_, scalars, nullptr));
    Check(backend_->Run(*prepare_, {}, nullptr));
  }

  std::vector<Bytes> State() {
    std::vector<Bytes> state;
    for (const Arena arena : kState) state.push_back(Read(arena));
    return state;
  }
  Bytes Read(Arena arena) {
    Bytes bytes(plan_.arena_bytes[static_cast<int>(arena)]);
    Check(backend_->Read(Whole(arena), absl::MakeSpan(bytes)));
    return bytes;
  }

 private:
  static void Check(const absl::Status& status) {
    VITSCALE_CHECK(status.ok()) << status.ToString();
  }
  template <typename T>
  static Bytes BytesOf(const std::vector<T>& values) {
    const auto* begin = reinterpret_cast<const std::byte*>(values.data());
    return {begin, begin + values.size() * sizeof(T)};
  }
  TensorView Whole(Arena arena) const {
    return {ArenaName(arena), arena, 0, DType::kU8, {plan_.arena_bytes[static_cast<int>(arena)]}};
  }
  void Write(Arena arena, Bytes bytes) {
    bytes.resize(plan_.arena_bytes[static_cast<int>(arena)]);
    Check(backend_->Write(Whole(arena), bytes));
  }
  void WriteInput(int64_t step) {
    const InputViews& input = plan_.layout.input;
    std::vector<uint8_t> images(input.images.bytes());
    for (size_t i = 0; i < images.size(); ++i) {
      images[i] = static_cast<uint8_t>(MixBits(i + 1000 * rank_ + 1000000 * step));
    }
    std::vector<int32_t> labels(input.labels.ids.elements());
    for (size_t i = 0; i < labels.size(); ++i) {
      labels[i] = static_cast<int32_t>((i + 2 * rank_ + step) % plan_.layout.model.classes);
    }
    Check(backend_->Write(input.images, BytesOf(images)));
    Check(backend_->Write(input.augment, Bytes(input.augment.bytes())));
    Check(backend_->Write(input.labels.ids, BytesOf(labels)));
  }

  const int rank_;
  const Plan plan_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<PreparedProgram> step_, update_, prepare_;
};

// Sums buckets as they are ready; aborts instead when it comes to `abort_at`.
class Summing : public MarkerSink {
 public:
  Summing(Model& model, Collective& collective, int abort_at)
      : model_(model), collective_(collective), abort_at_(abort_at) {}
  void OnGradientsReady(int bucket) override {
    if (bucket == abort_at_) collective_.Abort();
    collective_.Start(bucket, model_.BucketValues(bucket));
  }
  void OnPhase(const std::string&) override {}

 private:
  Model& model_;
  Collective& collective_;
  const int abort_at_;
};

// A step of one rank up to the gate: whether it may be applied.
bool StepToGate(Model& model, Collective& collective, int64_t step, int abort_at = -1) {
  Summing sink(model, collective, abort_at);
  model.RunPartOne(step, &sink);
  const auto records = collective.ExchangeRecords(RecordOf(collective, step), kLong);
  return records.ok();
}

std::unique_ptr<Collective> Met(const NcclGang& gang, int rank, int64_t generation) {
  auto collective = gang.Make(rank, generation);
  const absl::Status connected = collective->Connect(kLong);
  VITSCALE_CHECK(connected.ok()) << connected.ToString();
  return collective;
}

class NcclGateTest : public testing::TestWithParam<OptimizerKind> {};
INSTANTIATE_TEST_SUITE_P(EveryOptimizer, NcclGateTest,
                         testing::Values(OptimizerKind::kAdafactor, OptimizerKind::kAdamW,
                                         OptimizerKind::kSgd),
                         [](const auto& info) {
                           return info.param == OptimizerKind::kAdafactor ? "adafactor"
                                  : info.param == OptimizerKind::kAdamW   ? "adamw"
                                                                          : "sgd";
                         });

TEST_P(NcclGateTest, TwoRanksHoldTheSameBitsAfterEveryStep) {
  std::vector<std::vector<Bytes>> states(kRanks), begin(kRanks);
  const NcclGang gang(kRanks);
  OnThreads(kRanks, [&](int rank) {
    Model model(rank, GetParam());
    begin[rank] = model.State();
    const auto collective = Met(gang, rank, 1);
    for (int64_t step = 0; step < 2; ++step) {
      ASSERT_TRUE(StepToGate(model, *collective, step));
      model.Update(step, true);
    }
    states[rank] = model.State();
  });
  EXPECT_TRUE(begin[0] == begin[1]);
  EXPECT_TRUE(states[0] == states[1]);
  EXPECT_FALSE(states[0] == begin[0]);
}

// After each abort the update runs on the gradients as they are, half summed: only the gate, a word
// in the device's memory, keeps them out. In the end the run has the bits of one without aborts.
TEST_P(NcclGateTest, AbortedAllReduceLeavesParametersAndStateBitIdentical) {
  const NcclGang undisturbed(kRanks), gang(kRanks);
  OnThreads(kRanks, [&](int rank) {
    Model model(rank, GetParam()), reference(rank, GetParam());
    {
      const auto collective = Met(undisturbed, rank, 1);
      for (int64_t step = 0; step < 2; ++step) {
        ASSERT_TRUE(StepToGate(reference, *collective, step));
        reference.Update(step, true);
      }
    }
    int64_t generation = 1;
    {
      const auto collective = Met(gang, rank, generation);
      ASSERT_TRUE(StepToGate(model, *collective, 0));
      model.Update(0, true);
    }
    const std::vector<Bytes> before = model.State();
    ASSERT_GE(model.buckets(), 4);
    for (int bucket = 0; bucket < model.buckets(); ++bucket) {
      const auto collective = Met(gang, rank, ++generation);
      EXPECT_FALSE(StepToGate(model, *collective, 1, rank == bucket % kRanks ? bucket : -1));
      model.Update(1, false);
      EXPECT_TRUE(model.State() == before) << "rank " << rank << ", bucket " << bucket;
    }
    const auto collective = Met(gang, rank, ++generation);
    ASSERT_TRUE(StepToGate(model, *collective, 1));
    model.Update(1, true);
    EXPECT_TRUE(model.State() == reference.State()) << "rank " << rank;
  });
}

// The twin of the above: what the closed gate keeps out would have changed every bit of it.
TEST(OpenGateTest, AnOpenGateWouldLetHalfSummedGradientsIn) {
  std::vector<std::vector<Bytes>> states(kRanks);
  const NcclGang gang(kRanks);
  OnThreads(kRanks, [&](int rank) {
    Model model(rank, OptimizerKind::kSgd);
    const std::vector<Bytes> before = model.State();
    const auto collective = Met(gang, rank, 1);
    EXPECT_FALSE(StepToGate(model, *collective, 0, rank == 0 ? 0 : -1));
    model.Update(0, true);
    states[rank] = model.State();
    EXPECT_FALSE(states[rank] == before);
  });
  EXPECT_FALSE(states[0] == states[1]);
}

}  // namespace
}  // namespace vitscale::cuda
