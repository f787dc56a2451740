// LayerNorm, ResidualLayerNorm and LayerNormGrad: every variant against the f64 reference.

#include <string>
#include <vector>

#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/reference/layernorm_reference.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

constexpr double kEpsilon = 1e-6;

struct Problem {
  int64_t rows, width;
  Doubles x, delta, gamma, beta, grad_y, grad_residual;
};

Problem MakeProblem(int64_t rows, int64_t width, DType dtype) {
  Problem p{rows, width};
  p.x = Rounded(NormalValues(rows * width, 1.5, 1), DType::kF32);
  for (double& value : p.x) value += 0.75;  // a mean to take off
  p.x = Rounded(p.x, DType::kF32);
  p.delta = Rounded(NormalValues(rows * width, 0.5, 2), dtype);
  p.gamma = Rounded(UniformValues(width, 0.5, 1.5, 3), DType::kF32);
  p.beta = Rounded(UniformValues(width, -0.5, 0.5, 4), DType::kF32);
  p.grad_y = Rounded(NormalValues(rows * width, 1.0, 5), dtype);
  p.grad_residual = Rounded(NormalValues(rows * width, 1.0, 6), DType::kF32);
  return p;
}

// A mean of n values in f32 has at most n / 32 + 16 additions on each path (4 partial sums of 8 or
// 16 lanes, then the fold); the same again for the squares. |h| is below 5 and gamma below 1.5.
double F32Error(int64_t width) {
  return 2.0 * (static_cast<double>(width) / 32 + 16) * 0x1p-24 * 7.5;
}

class LayerNormTest : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(EveryVariant, LayerNormTest, testing::ValuesIn(AllVariants()),
                         VariantName);

struct Forward {
  OpBench bench;
  TensorView y, mean, inv_std;
  Forward(Variant variant, const Problem& p, int threads = 1) : bench(variant, threads) {
    const TensorView x = bench.Input("x", DType::kF32, {p.rows, p.width}, p.x);
    const TensorView gamma = bench.Input("gamma", DType::kF32, {p.width}, p.gamma);
    const TensorView beta = bench.Input("beta", DType::kF32, {p.width}, p.beta);
    y = bench.Output("y", variant.dtype, {p.rows, p.width});
    mean = bench.Output("mean", DType::kF32, {p.rows});
    inv_std = bench.Output("inv_std", DType::kF32, {p.rows});
    EXPECT_THAT(bench.Run(LayerNormArgs{x, gamma, beta, 1e-6f, y, mean, inv_std}), IsOk());
  }
};

TEST_P(LayerNormTest, ForwardMatchesTheReferenceAtEveryWidth) {
  for (const int64_t width : {1, 7, 16, 64, 65, 192, 384, 1000, 1664}) {
    SCOPED_TRACE(width);
    const Problem p = MakeProblem(131, width, GetParam().dtype);
    Forward f(GetParam(), p);
    const auto want = reference::LayerNorm(p.x, p.gamma, p.beta, kEpsilon);
    ExpectNear(f.bench.Values(f.mean), want.mean, 0x1p-22, F32Error(width), "mean");
    ExpectNear(f.bench.Values(f.y), want.y, HalfUlp(GetParam().dtype),
               width == 1 ? 1e-3 : F32Error(width), "y");
    if (width > 1) {
      ExpectNear(f.bench.Values(f.inv_std), want.inv_std, F32Error(width), 0, "inv_std");
    }
  }
}

TEST_P(LayerNormTest, RowsOfOneValueGiveBeta) {
  Problem p = MakeProblem(3, 48, GetParam().dtype);
  p.x.assign(p.x.size(), 1024.0);
  Forward f(GetParam(), p);
  Doubles want;
  for (int row = 0; row < 3; ++row) want.insert(want.end(), p.beta.begin(), p.beta.end());
  ExpectNear(f.bench.Values(f.y), Rounded(want, GetParam().dtype), 0, 0);
}

TEST_P(LayerNormTest, LargeMeansDoNotCancelTheVariance) {
  Problem p = MakeProblem(5, 256, GetParam().dtype);
  for (double& value : p.x) value += 4096.0;
  p.x = Rounded(p.x, DType::kF32);
  Forward f(GetParam(), p);
  const auto want = reference::LayerNorm(p.x, p.gamma, p.beta, kEpsilon);
  // The mean is right to 2^-24 * 4096 * a few roundings: 2^-10 of a standard deviation of 1.5.
  ExpectNear(f.bench.Values(f.y), want.y, HalfUlp(GetParam().dtype), 3e-3);
}

TEST_P(LayerNormTest, OneNaNSpoilsItsRowAndNoOther) {
  Problem p = MakeProblem(4, 80, GetParam().dtype);
  p.x[80 + 3] = NAN;
  Forward f(GetParam(), p);
  const Doubles y = f.bench.Values(f.y);
  for (int64_t i = 0; i < 4 * 80; ++i) EXPECT_EQ(std::isnan(y[i]), i / 80 == 1) << i;
}

TEST_P(LayerNormTest, ResidualFormAddsFirstAndMayWorkInPlace) {
  const Problem p = MakeProblem(130, 96, GetParam().dtype);
  Doubles sum(p.x.size());
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = p.x[i] + p.delta[i];
  sum = Rounded(sum, DType::kF32);
  const auto want = reference::LayerNorm(sum, p.gamma, p.beta, kEpsilon);
  for (const bool in_place : {false, true}) {
    for (const DType y_type : {GetParam().dtype, DType::kF32}) {
      OpBench bench(GetParam());
      ResidualLayerNormArgs args;
      args.x = bench.Input("x", DType::kF32, {p.rows, p.width}, p.x);
      args.delta = bench.Input("delta", GetParam().dtype, {p.rows, p.width}, p.delta);
      args.sum = in_place ? args.x : bench.Output("sum", DType::kF32, {p.rows, p.width});
      args.gamma = bench.Input("gamma", DType::kF32, {p.width}, p.gamma);
      args.beta = bench.Input("beta", DType::kF32, {p.width}, p.beta);
      args.y = bench.Output("y", y_type, {p.rows, p.width});
      ASSERT_THAT(bench.Run(args), IsOk());
      ExpectNear(bench.Values(args.sum), sum, 0, 0, "sum");
      ExpectNear(bench.Values(args.y), want.y, HalfUlp(y_type), F32Error(96), "y");
    }
  }
}

// The sum is rounded before it is normalised: what LayerNorm makes of the stored sum is the same to
// the bit.
TEST_P(LayerNormTest, Bf16ResidualIsRoundedOnceAndThenNormalised) {
  const Problem p = MakeProblem(130, 97, GetParam().dtype);
  const Doubles x = Rounded(p.x, DType::kBf16);
  Doubles sum(x.size());
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = x[i] + p.delta[i];
  sum = Rounded(Rounded(sum, DType::kF32), DType::kBf16);
  const auto want = reference::LayerNorm(sum, p.gamma, p.beta, kEpsilon);
  OpBench bench(GetParam());
  const Shape shape = {p.rows, p.width};
  ResidualLayerNormArgs args;
  args.x = bench.Input("x", DType::kBf16, shape, x);
  args.delta = bench.Input("delta", GetParam().dtype, shape, p.delta);
  args.sum = bench.Output("sum", DType::kBf16, shape);
  args.gamma = bench.Input("gamma", DType::kF32, {p.width}, p.gamma);
  args.beta = bench.Input("beta", DType::kF32, {p.width}, p.beta);
  args.y = bench.Output("y", GetParam().dtype, shape);
  const TensorView alone = bench.Output("alone", GetParam().dtype, shape);
  Program program;
  program.Add(args);
  program.Add(LayerNormArgs{.x = args.sum, .gamma = args.gamma, .beta = args.beta, .y = alone});
  ASSERT_THAT(bench.RunProgram(std::move(program)), IsOk());
  EXPECT_EQ(bench.Values(args.sum), sum);
  ExpectNear(bench.Values(args.y), want.y, HalfUlp(GetParam().dtype), F32Error(97), "y");
  EXPECT_TRUE(bench.Bytes(args.y) == bench.Bytes(alone));
}

// ---- backward -----------------------------------------------------------------------------------

struct Backward {
  OpBench bench;
  LayerNormGradArgs args;
  Backward(Variant variant, const Problem& p, bool residual, bool cast, bool accumulate,
           int threads = 1)
      : bench(variant, threads) {
    const Shape shape = {p.rows, p.width};
    const auto forward = reference::LayerNorm(p.x, p.gamma, p.beta, kEpsilon);
    args.grad_y = bench.Input("grad_y", variant.dtype, shape, p.grad_y);
    args.x = bench.Input("x", DType::kF32, shape, p.x);
    args.mean = bench.Input("mean", DType::kF32, {p.rows}, forward.mean);
    args.inv_std = bench.Input("inv_std", DType::kF32, {p.rows}, forward.inv_std);
    args.gamma = bench.Input("gamma", DType::kF32, {p.width}, p.gamma);
    if (residual) {
      args.grad_residual = bench.Input("grad_residual", DType::kF32, shape, p.grad_residual);
    }
    args.grad_x = residual ? args.grad_residual : bench.Output("grad_x", DType::kF32, shape);
    if (cast) args.grad_x_cast = bench.Output("grad_x_cast", variant.dtype, shape);
    const Doubles start(p.width, 3.0);
    args.grad_gamma = bench.Input("grad_gamma", DType::kF32, {p.width}, start, Arena::kGradients);
    args.grad_beta = bench.Input("grad_beta", DType::kF32, {p.width}, start, Arena::kGradients);
    args.accumulate = accumulate;
    EXPECT_THAT(bench.Run(args), IsOk());
  }
};

TEST_P(LayerNormTest, BackwardMatchesTheReferenceInEveryForm) {
  for (const int64_t width : {7, 64, 65, 384, 1664}) {
    SCOPED_TRACE(width);
    const Problem p = MakeProblem(141, width, GetParam().dtype);
    auto want = reference::LayerNormGrad(p.grad_y, p.x, p.gamma, kEpsilon);
    for (const bool full : {false, true}) {
      Backward b(GetParam(), p, full, full, full);
      Doubles grad_x = want.grad_x, grad_gamma = want.grad_gamma, grad_beta = want.grad_beta;
      for (size_t i = 0; full && i < grad_x.size(); ++i) grad_x[i] += p.grad_residual[i];
      for (int64_t c = 0; full && c < width; ++c) grad_gamma[c] += 3.0, grad_beta[c] += 3.0;
      ExpectNear(b.bench.Values(b.args.grad_x), grad_x, 0x1p-22, 4 * F32Error(width), "grad_x");
      if (full) {
        ExpectNear(b.bench.Values(b.args.grad_x_cast), grad_x, HalfUlp(GetParam().dtype),
                   4 * F32Error(width), "grad_x_cast");
      }
      // 141 terms below 16 in f32, each rounded once.
      const double sum_error = 141 * 0x1p-24 * 64;
      ExpectNear(b.bench.Values(b.args.grad_gamma), grad_gamma, 0, sum_error, "grad_gamma");
      ExpectNear(b.bench.Values(b.args.grad_beta), grad_beta, 0, sum_error, "grad_beta");
    }
  }
}

TEST_P(LayerNormTest, BackwardOfABf16StreamMatchesTheReference) {
  Problem p = MakeProblem(50, 65, GetParam().dtype);
  p.x = Rounded(p.x, DType::kBf16);
  const auto want = reference::LayerNormGrad(p.grad_y, p.x, p.gamma, kEpsilon);
  Backward b(GetParam(), p, false, true, false);
  b.args.x = b.bench.Input("bf16 x", DType::kBf16, {p.rows, p.width}, p.x);
  ASSERT_THAT(b.bench.Run(b.args), IsOk());
  ExpectNear(b.bench.Values(b.args.grad_x), want.grad_x, 0x1p-22, 4 * F32Error(65), "grad_x");
  ExpectNear(b.bench.Values(b.args.grad_gamma), want.grad_gamma, 0, 50 * 0x1p-24 * 64);
}

TEST_P(LayerNormTest, BackwardGivesForwardsOutputAgainToTheBit) {
  for (const DType x_type : {DType::kF32, DType::kBf16}) {
    Problem p = MakeProblem(140, 72, GetParam().dtype);
    p.x = Rounded(p.x, x_type);
    Backward b(GetParam(), p, true, true, false);
    const Shape shape = {p.rows, p.width};
    LayerNormGradArgs grad = b.args;
    grad.x = b.bench.Input("stream", x_type, shape, p.x);
    grad.mean = b.bench.Output("own mean", DType::kF32, {p.rows});
    grad.inv_std = b.bench.Output("own inv_std", DType::kF32, {p.rows});
    grad.beta = b.bench.Input("beta", DType::kF32, {p.width}, p.beta);
    grad.y = b.bench.Output("y again", GetParam().dtype, shape);
    const TensorView y = b.bench.Output("y", GetParam().dtype, shape);
    Program program;
    program.Add(LayerNormArgs{.x = grad.x,
                              .gamma = grad.gamma,
                              .beta = grad.beta,
                              .y = y,
                              .mean = grad.mean,
                              .inv_std = grad.inv_std});
    program.Add(grad);
    ASSERT_THAT(b.bench.RunProgram(std::move(program)), IsOk());
    EXPECT_TRUE(b.bench.Bytes(y) == b.bench.Bytes(grad.y));
  }
}

TEST_P(LayerNormTest, BitsDoNotDependOnTheNumberOfThreads) {
  const Problem p = MakeProblem(700, 72, GetParam().dtype);
  ExpectSameBitsForAnyThreads([&](int threads) {
    Forward f(GetParam(), p, threads);
    return f.bench.Bytes(f.y);
  });
  for (const auto member : {&LayerNormGradArgs::grad_x, &LayerNormGradArgs::grad_gamma,
                            &LayerNormGradArgs::grad_beta}) {
    ExpectSameBitsForAnyThreads([&](int threads) {
      Backward b(GetParam(), p, true, true, false, threads);
      return b.bench.Bytes(b.args.*member);
    });
  }
}

// In a panel group the items are images, so the order of the sums is that of the images whatever
// the threads.
TEST_P(LayerNormTest, BackwardInsideAPanelGroupMatchesTheReference) {
  constexpr int64_t kBatch = 6;
  const Problem p = MakeProblem(kBatch * 10, 64, GetParam().dtype);
  const auto want = reference::LayerNormGrad(p.grad_y, p.x, p.gamma, kEpsilon);
  std::vector<std::byte> first;
  for (const int threads : {1, 2, 3}) {
    Backward b(GetParam(), p, false, true, false, threads);
    Program program;
    program.Add(PanelBeginArgs{kBatch});
    program.Add(b.args);
    program.Add(PanelEndArgs{});
    ASSERT_THAT(b.bench.RunProgram(std::move(program)), IsOk());
    ExpectNear(b.bench.Values(b.args.grad_x), want.grad_x, 0x1p-22, 4 * F32Error(64));
    ExpectNear(b.bench.Values(b.args.grad_gamma), want.grad_gamma, 0, 60 * 0x1p-24 * 64);
    const auto bytes = b.bench.Bytes(b.args.grad_gamma);
    if (threads == 1) first = bytes;
    EXPECT_TRUE(bytes == first) << threads << " threads";
  }
}

TEST(LayerNormReferenceTest, BackwardAgreesWithFiniteDifferences) {
  const Problem p = MakeProblem(2, 9, DType::kF32);
  const auto weighted = [&](const Doubles& x, const Doubles& gamma, const Doubles& beta) {
    const auto y = reference::LayerNorm(x, gamma, beta, kEpsilon).y;
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += y[i] * p.grad_y[i];
    return sum;
  };
  const auto grad = reference::LayerNormGrad(p.grad_y, p.x, p.gamma, kEpsilon);
  // Central differences with h = 1e-5: truncation below 1e-9, cancellation 1e-16 * 20 / 1e-5 =
  // 2e-10.
  ExpectNear(
      grad.grad_x,
      CentralDifferences([&](const Doubles& x) { return weighted(x, p.gamma, p.beta); }, p.x), 0,
      1e-8);
  ExpectNear(
      grad.grad_gamma,
      CentralDifferences([&](const Doubles& g) { return weighted(p.x, g, p.beta); }, p.gamma), 0,
      1e-8);
  ExpectNear(
      grad.grad_beta,
      CentralDifferences([&](const Doubles& b) { return weighted(p.x, p.gamma, b); }, p.beta), 0,
      1e-8);
}

}  // namespace
}  // namespace vitscale
