// Whole steps of training on CUDA against the CPU: forward, loss, backward over two micro-batches,
// update, preparation of weights, evaluation and digest, as worker/model builds them, for every
// head, loss, kind of label, precision, optimizer and head dim in use, type of the residual stream
// and level of recompute.

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/cuda_on_cpu/schedule.h"
#include "tests/cuda_on_cpu/step_replica.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"
#ifdef VITSCALE_CUDA_ON_CPU
#include "tests/cuda_on_cpu/device.h"
#endif

namespace vitscale {
namespace {

// |a - b| / |b| over all elements, both as f32; against `scale` where that is larger.
double RelativeError(const std::vector<float>& a, const std::vector<float>& b, double scale = 0) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double{a[i]} - double{b[i]}, 2);
    norm += std::pow(double{b[i]}, 2);
  }
  const double most = std::max(std::sqrt(norm), scale);
  return most == 0 ? std::sqrt(difference) : std::sqrt(difference) / most;
}
double Norm(const std::vector<float>& a) {
  double norm = 0;
  for (const float value : a) norm += double{value} * double{value};
  return std::sqrt(norm);
}

using Gradients = std::map<std::string, std::vector<float>>;
Gradients GradientsOf(StepReplica& replica) {
  Gradients gradients;
  for (const Parameter& p : replica.table().parameters()) {
    gradients[p.name] = FloatsOf(replica.Read(replica.table().GradientView(p)));
  }
  return gradients;
}

const StepCase kCases[] = {
    {"map_sigmoid_dim16", 16, PoolKind::kMap, LossKind::kSigmoid},
    {"map_softmax_dim32", 32, PoolKind::kMap, LossKind::kSoftmax, LabelKind::kClassId,
     OptimizerKind::kAdamW},
    {"map_sigmoid_sparse_dim64", 64, PoolKind::kMap, LossKind::kSigmoid, LabelKind::kSparse},
    {"map_softmax_dense_dim104", 104, PoolKind::kMap, LossKind::kSoftmax, LabelKind::kDense},
    {"gap_sigmoid_dense_dim72", 72, PoolKind::kGap, LossKind::kSigmoid, LabelKind::kDense,
     OptimizerKind::kSgd},
    {"gap_softmax_representation_dim80", 80, PoolKind::kGap, LossKind::kSoftmax,
     LabelKind::kClassId, OptimizerKind::kAdamW, PositionKind::kSincos2d, 24},
    {"gap_sigmoid_dim112", 112, PoolKind::kGap, LossKind::kSigmoid},
    {"cls_softmax_sparse_dim88", 88, PoolKind::kCls, LossKind::kSoftmax, LabelKind::kSparse,
     OptimizerKind::kSgd},
    {"cls_sigmoid_representation_dim96", 96, PoolKind::kCls, LossKind::kSigmoid,
     LabelKind::kClassId, OptimizerKind::kAdafactor, PositionKind::kLearned, 24},
    {"cls_softmax_dim128", 128, PoolKind::kCls, LossKind::kSoftmax},
};

class StepCudaTest : public testing::TestWithParam<std::tuple<StepCase, Precision>> {
 protected:
  const StepCase& test_case() const { return std::get<0>(GetParam()); }
  Precision precision() const { return std::get<1>(GetParam()); }
  BackendMaker Cuda() const { return CudaBackendMaker(ComputeDType(precision())); }
};
std::string TestName(const testing::TestParamInfo<std::tuple<StepCase, Precision>>& info) {
  return absl::StrCat(std::get<0>(info.param).name, "_", PrecisionName(std::get<1>(info.param)));
}
INSTANTIATE_TEST_SUITE_P(EveryModel, StepCudaTest,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Precision::kF32, Precision::kBf16)),
                         TestName);

// Two correct programs differ by the order of f32 sums and, in bf16, by where values are rounded.
//   f32   a gradient is behind a chain of some forty products of up to some hundred terms. Another
//         order moves a sum of n terms by about sqrt(n) / 2 roundings, and every link of the chain
//         hands that on: 40 * sqrt(300) / 2 * 2^-24 = 2^-15.6 if all of them point the same way.
//         An H200 comes to 2^-17.5, the stand-in (in the CPU's order) to less than 2^-18.
//   bf16  truth is the CPU in f32. CUDA may be off by twice what the CPU in bf16 is: it rounds
//         biases where the CPU does not, and where sums differ by an ulp, roundings go either way.
//         The same where only the residual stream is bf16.
// A key bias has gradient 0 (softmax is invariant to it): noise relative to the query's.
constexpr double kF32Bound = 0x1p-16;
constexpr double kBf16Floor = 0x1p-9;

double ScaleOf(const Parameter& p, const Gradients& gradients) {
  if (!p.is_key_bias) return 0;
  return Norm(gradients.at(absl::StrCat(p.name.substr(0, p.name.size() - 8), "query/bias")));
}

void ExpectF32StepOfTheCpu(StepReplica& cuda, StepReplica& cpu) {
  const Gradients of_cpu = GradientsOf(cpu), of_cuda = GradientsOf(cuda);
  EXPECT_NEAR(cuda.LossSum(), cpu.LossSum(), 1e-6 * std::abs(cpu.LossSum()));
  EXPECT_EQ(cuda.Correct(), cpu.Correct());
  for (const Parameter& p : cpu.table().parameters()) {
    EXPECT_TRUE(p.is_key_bias || Norm(of_cuda.at(p.name)) > 1e-6) << p.name;
    EXPECT_LE(RelativeError(of_cuda.at(p.name), of_cpu.at(p.name), ScaleOf(p, of_cpu)), kF32Bound)
        << p.name;
  }
}

void ExpectBf16StepOfTheCpu(StepReplica& cuda, StepReplica& cpu, StepReplica& exact) {
  const Gradients of_cpu = GradientsOf(cpu), of_cuda = GradientsOf(cuda);
  const Gradients truth = GradientsOf(exact);
  EXPECT_NEAR(cuda.LossSum(), exact.LossSum(),
              2 * std::abs(cpu.LossSum() - exact.LossSum()) + 0x1p-9 * exact.LossSum());
  for (const Parameter& p : cpu.table().parameters()) {
    const double scale = ScaleOf(p, truth);
    const double of_the_cpu = RelativeError(of_cpu.at(p.name), truth.at(p.name), scale);
    EXPECT_LE(RelativeError(of_cuda.at(p.name), truth.at(p.name), scale),
              2 * of_the_cpu + kBf16Floor)
        << p.name;
  }
}

// `cuda` has made Step(7).
void ExpectStepOfTheCpu(StepReplica& cuda, StepCase c, Precision precision) {
  StepReplica cpu(c, precision, DeviceKind::kCpu, CpuMaker(precision));
  cpu.Step(7);
  if (precision == Precision::kF32 && c.residual == DType::kF32) {
    return ExpectF32StepOfTheCpu(cuda, cpu);
  }
  c.residual = DType::kF32;
  StepReplica exact(c, Precision::kF32, DeviceKind::kCpu, CpuMaker(Precision::kF32));
  exact.Step(7);
  ExpectBf16StepOfTheCpu(cuda, cpu, exact);
}

TEST_P(StepCudaTest, LossAndEveryGradientAreThoseOfTheCpu) {
  StepReplica cuda(test_case(), precision(), DeviceKind::kCuda, Cuda());
  cuda.Step(7);
  ExpectStepOfTheCpu(cuda, test_case(), precision());
}

// For either type of the residual stream. What backward computes again is what forward had, so what
// holds for one level holds for all.
TEST_P(StepCudaTest, EveryLevelOfRecomputeGivesTheSameBitsAndTheyAreNearTheCpu) {
  for (const DType residual : {DType::kF32, DType::kBf16}) {
    StepCase c = test_case();
    c.residual = residual;
    c.recompute = RecomputeLevel::kNone;
    StepReplica keeps_all(c, precision(), DeviceKind::kCuda, Cuda());
    keeps_all.Step(7);
    ExpectStepOfTheCpu(keeps_all, c, precision());
    for (const auto level : {RecomputeLevel::kGeluAndLayerNorm, RecomputeLevel::kBlock}) {
      SCOPED_TRACE(absl::StrCat(RecomputeName(level), ", residual ", DTypeName(residual)));
      c.recompute = level;
      StepReplica again(c, precision(), DeviceKind::kCuda, Cuda());
      again.Step(7);
      EXPECT_EQ(again.choices(), keeps_all.choices());
      EXPECT_EQ(again.LossSum(), keeps_all.LossSum());
      EXPECT_TRUE(GradientsOf(again) == GradientsOf(keeps_all));
    }
  }
}

// From the same gradients and the same state: optimizer, average and the weights that come of it.
TEST_P(StepCudaTest, UpdateAndEvaluationAreThoseOfTheCpu) {
  StepReplica cpu(test_case(), precision(), DeviceKind::kCpu, CpuMaker(precision()));
  StepReplica cuda(test_case(), precision(), DeviceKind::kCuda, Cuda());
  cpu.Step(7);
  for (int64_t step = 0; step < 2; ++step) {
    cuda.WriteArena(Arena::kGradients, cpu.ReadArena(Arena::kGradients));
    cpu.Update(step);
    cuda.Update(step);
  }
  const StatisticsViews& statistics = cpu.plan().layout.statistics;
  for (const TensorView& sum : {statistics.gradient_square_sum, statistics.parameter_square_sum,
                                statistics.update_square_sum}) {
    EXPECT_NEAR(cuda.Scalar<double>(sum), cpu.Scalar<double>(sum), 1e-5 * cpu.Scalar<double>(sum))
        << sum.name;
  }
  for (const Arena arena : {Arena::kParameters, Arena::kSecondMoment, Arena::kAverage}) {
    EXPECT_LE(RelativeError(FloatsOf(cuda.ReadArena(arena)), FloatsOf(cpu.ReadArena(arena))), 1e-5)
        << ArenaName(arena);
  }
  const double loss = cpu.Evaluate(11);
  EXPECT_NEAR(cuda.Evaluate(11), loss,
              (precision() == Precision::kF32 ? 1e-5 : 0x1p-7) * std::abs(loss));
}

TEST_P(StepCudaTest, ClosedGateChangesNoBitOfTheState) {
  StepReplica cuda(test_case(), precision(), DeviceKind::kCuda, Cuda());
  cuda.Step(7);
  constexpr Arena kState[] = {Arena::kParameters, Arena::kMomentum, Arena::kSecondMoment,
                              Arena::kAverage};
  std::vector<Bytes> before;
  for (const Arena arena : kState) before.push_back(cuda.ReadArena(arena));
  cuda.Update(/*step=*/0, /*apply=*/0);
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(cuda.ReadArena(kState[i]) == before[i]) << ArenaName(kState[i]);
  }
}

TEST_P(StepCudaTest, DigestOfTheSameBytesIsThatOfTheCpu) {
  StepReplica cpu(test_case(), precision(), DeviceKind::kCpu, CpuMaker(precision()));
  StepReplica cuda(test_case(), precision(), DeviceKind::kCuda, Cuda());
  cpu.Step(7);
  cpu.Update(0);
  const int64_t before = cuda.Digest();
  for (const Arena arena : {Arena::kParameters, Arena::kMomentum, Arena::kSecondMoment}) {
    cuda.WriteArena(arena, cpu.ReadArena(arena));
  }
  EXPECT_EQ(cuda.Digest(), cpu.Digest());
  EXPECT_NE(cuda.Digest(), before);
}

// Gradients, state and statistics of two steps and an evaluation.
std::vector<Bytes> RunOf(const StepCase& c, Precision precision, const BackendMaker& make) {
  StepReplica replica(c, precision, DeviceKind::kCuda, make);
  for (int64_t step = 0; step < 2; ++step) {
    replica.Step(static_cast<uint64_t>(10 * step));
    replica.Update(step);
  }
  (void)replica.Evaluate(30);
  std::vector<Bytes> bytes;
  for (const Arena arena : {Arena::kGradients, Arena::kParameters, Arena::kMomentum,
                            Arena::kSecondMoment, Arena::kAverage, Arena::kStatistics}) {
    bytes.push_back(replica.ReadArena(arena));
  }
  return bytes;
}

TEST_P(StepCudaTest, TwoRunsGiveTheSameBits) {
  const std::vector<Bytes> first = RunOf(test_case(), precision(), Cuda());
  const cuda_on_cpu::ScopedSchedule other(0x5eed);
  EXPECT_TRUE(RunOf(test_case(), precision(), Cuda()) == first);
}

#ifdef VITSCALE_CUDA_ON_CPU
TEST_P(StepCudaTest, NothingIsAllocatedAfterTheFirstStep) {
  StepReplica cuda(test_case(), precision(), DeviceKind::kCuda, Cuda());
  cuda.Step(7);
  cuda.Update(0);
  const int64_t allocations = cuda_on_cpu::Counts().allocations;
  cuda.Step(8);
  cuda.Update(1);
  (void)cuda.Evaluate(9);
  (void)cuda.Digest();
  EXPECT_EQ(cuda_on_cpu::Counts().allocations, allocations);
}
#endif

}  // namespace
}  // namespace vitscale
