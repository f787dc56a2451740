// LayerNorm, ResidualLayerNorm and LayerNormGrad on CUDA against the CPU, every variant.
//
// Bounds: each side is within its bound of the exact result, so the two are within twice that.

#include <string>
#include <vector>

#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/kernels/reference/layernorm_reference.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr DType kTypes[] = {DType::kF32, DType::kBf16};

// Every number of registers a row may take, one width at its end and one past it, widths of no
// whole vector, and one too wide for registers.
constexpr int64_t kVectorWidths[] = {4,    192,  256,  260,  384,  388,  768, 772,
                                     1024, 1028, 1408, 1412, 1664, 1668, 2048};
constexpr int64_t kSimpleWidths[] = {1, 7, 65, 1001, 2052};

struct Problem {
  int64_t rows, width;
  Doubles x, delta, gamma, beta, grad_y, grad_residual, mean, inv_std;
};

Problem MakeProblem(int64_t rows, int64_t width, DType dtype, DType x_type = DType::kF32) {
  Problem p{rows, width};
  p.x = NormalValues(rows * width, 1.5, 1);
  for (double& value : p.x) value += 0.75;  // a mean to take off
  p.x = Rounded(p.x, x_type);
  p.delta = Rounded(NormalValues(rows * width, 0.5, 2), dtype);
  p.gamma = Rounded(UniformValues(width, 0.5, 1.5, 3), DType::kF32);
  p.beta = Rounded(UniformValues(width, -0.5, 0.5, 4), DType::kF32);
  p.grad_y = Rounded(NormalValues(rows * width, 1.0, 5), dtype);
  p.grad_residual = Rounded(NormalValues(rows * width, 1.0, 6), DType::kF32);
  const auto forward = reference::LayerNorm(p.x, p.gamma, p.beta, 1e-6);
  p.mean = forward.mean, p.inv_std = forward.inv_std;
  return p;
}

// A sum of n values in f32 has at most n / 32 + 16 additions on each path (on CUDA n / 32 and five
// exchanges); the same again for the squares. |h| is below 5 and gamma below 1.5.
double F32Error(int64_t width) {
  return 2 * 2.0 * (static_cast<double>(width) / 32 + 16) * 0x1p-24 * 7.5;
}

// ---- forward ------------------------------------------------------------------------------------

std::string ExpectForwardNearCpu(int64_t rows, int64_t width, DType x_type, DType y_type,
                                 bool statistics) {
  SCOPED_TRACE(testing::Message() << "width " << width << ", " << DTypeName(x_type) << " to "
                                  << DTypeName(y_type));
  const Problem p = MakeProblem(rows, width, y_type, x_type);
  OpPair pair(y_type);
  LayerNormArgs args;
  args.x = pair.Input("x", x_type, {rows, width}, p.x);
  args.gamma = pair.Input("gamma", DType::kF32, {width}, p.gamma);
  args.beta = pair.Input("beta", DType::kF32, {width}, p.beta);
  args.y = pair.Output("y", y_type, {rows, width});
  if (statistics) {
    args.mean = pair.Output("mean", DType::kF32, {rows});
    args.inv_std = pair.Output("inv_std", DType::kF32, {rows});
  }
  EXPECT_THAT(pair.Run(args), IsOk());
  pair.ExpectNear(args.y, 2 * HalfUlp(y_type), width == 1 ? 2e-3 : F32Error(width));
  if (statistics) pair.ExpectNear(args.mean, 0x1p-21, F32Error(width));
  if (statistics && width > 1) pair.ExpectNear(args.inv_std, F32Error(width), 0);
  return pair.variant();
}

TEST(LayerNormCudaTest, VectorVariantMatchesTheCpuAtEveryWidth) {
  for (const int64_t width : kVectorWidths) {
    for (const DType x : kTypes) {
      for (const DType y : kTypes) EXPECT_EQ(ExpectForwardNearCpu(11, width, x, y, true), "vector");
    }
  }
}

TEST(LayerNormCudaTest, SimpleVariantMatchesTheCpuAtEveryWidth) {
  for (const int64_t width : kSimpleWidths) {
    for (const DType x : kTypes) {
      for (const DType y : kTypes) {
        EXPECT_THAT(ExpectForwardNearCpu(9, width, x, y, true), StartsWith("simple: width "));
      }
    }
  }
}

TEST(LayerNormCudaTest, OneRowAndNoStatisticsAreEnough) {
  for (const DType x : kTypes) {
    EXPECT_EQ(ExpectForwardNearCpu(1, 384, x, DType::kBf16, false), "vector");
    EXPECT_THAT(ExpectForwardNearCpu(1, 33, x, DType::kBf16, false), HasSubstr("no multiple of 4"));
  }
}

TEST(LayerNormCudaTest, LargeMeansDoNotCancelTheVariance) {
  for (const int64_t width : {256, 255}) {
    Problem p = MakeProblem(5, width, DType::kF32);
    for (double& value : p.x) value += 4096.0;
    p.x = Rounded(p.x, DType::kF32);
    OpPair pair(DType::kF32);
    LayerNormArgs args;
    args.x = pair.Input("x", DType::kF32, {5, width}, p.x);
    args.gamma = pair.Input("gamma", DType::kF32, {width}, p.gamma);
    args.beta = pair.Input("beta", DType::kF32, {width}, p.beta);
    args.y = pair.Output("y", DType::kF32, {5, width});
    ASSERT_THAT(pair.Run(args), IsOk());
    // The means are right to 2^-24 * 4096 * a few roundings: 2^-10 of a deviation of 1.5 each.
    pair.ExpectNear(args.y, 0x1p-23, 6e-3);
  }
}

TEST(LayerNormCudaTest, OneNaNSpoilsItsRowAndNoOther) {
  for (const int64_t width : {80, 81}) {
    Problem p = MakeProblem(4, width, DType::kF32);
    p.x[width + 3] = NAN;
    OpPair pair(DType::kF32);
    LayerNormArgs args;
    args.x = pair.Input("x", DType::kF32, {4, width}, p.x);
    args.gamma = pair.Input("gamma", DType::kF32, {width}, p.gamma);
    args.beta = pair.Input("beta", DType::kF32, {width}, p.beta);
    args.y = pair.Output("y", DType::kF32, {4, width});
    ASSERT_THAT(pair.Run(args), IsOk());
    const Doubles y = pair.Cuda(args.y);
    for (int64_t i = 0; i < 4 * width; ++i) EXPECT_EQ(std::isnan(y[i]), i / width == 1) << i;
  }
}

struct ResidualCase {
  int64_t width;
  DType x, delta, y;
  bool in_place;
};

std::string ExpectResidualNearCpu(const ResidualCase& c) {
  SCOPED_TRACE(testing::Message() << "width " << c.width << ", x " << DTypeName(c.x) << ", delta "
                                  << DTypeName(c.delta) << ", y " << DTypeName(c.y) << ", in place "
                                  << c.in_place);
  const int64_t rows = 10;
  const Problem p = MakeProblem(rows, c.width, c.delta, c.x);
  OpPair pair(c.delta);
  ResidualLayerNormArgs args;
  args.x = pair.Input("x", c.x, {rows, c.width}, p.x);
  args.delta = pair.Input("delta", c.delta, {rows, c.width}, p.delta);
  args.sum = c.in_place ? args.x : pair.Output("sum", c.x, {rows, c.width});
  args.gamma = pair.Input("gamma", DType::kF32, {c.width}, p.gamma);
  args.beta = pair.Input("beta", DType::kF32, {c.width}, p.beta);
  args.y = pair.Output("y", c.y, {rows, c.width});
  args.mean = pair.Output("mean", DType::kF32, {rows});
  args.inv_std = pair.Output("inv_std", DType::kF32, {rows});
  EXPECT_THAT(pair.Run(args), IsOk());
  pair.ExpectSameBits(args.sum);
  pair.ExpectNear(args.y, 2 * HalfUlp(c.y), F32Error(c.width));
  pair.ExpectNear(args.mean, 0x1p-21, F32Error(c.width));
  pair.ExpectNear(args.inv_std, F32Error(c.width), 0);
  return pair.variant();
}

TEST(ResidualLayerNormCudaTest, FusedVariantMatchesTheCpuAtEveryWidthAndType) {
  for (const int64_t width : kVectorWidths) {
    for (const DType x : kTypes) {
      EXPECT_EQ(ExpectResidualNearCpu({width, x, DType::kBf16, DType::kBf16, false}), "fused");
    }
  }
  for (const DType x : kTypes) {
    for (const DType delta : kTypes) {
      for (const DType y : kTypes) {
        for (const bool in_place : {false, true}) {
          EXPECT_EQ(ExpectResidualNearCpu({384, x, delta, y, in_place}), "fused");
          EXPECT_THAT(ExpectResidualNearCpu({45, x, delta, y, in_place}), StartsWith("simple"));
        }
      }
    }
  }
}

// What a step relies on that keeps nothing of a block but its input.
TEST(ResidualLayerNormCudaTest, LayerNormOfTheStoredSumGivesTheSameBits) {
  for (const int64_t width : {388, 45}) {
    for (const DType type : kTypes) {
      SCOPED_TRACE(testing::Message() << "width " << width << ", " << DTypeName(type));
      const Problem p = MakeProblem(9, width, type, type);
      const Shape shape = {p.rows, width};
      OpPair pair(type);
      ResidualLayerNormArgs both;
      both.x = pair.Input("x", type, shape, p.x);
      both.delta = pair.Input("delta", type, shape, p.delta);
      both.sum = pair.Output("sum", type, shape);
      both.gamma = pair.Input("gamma", DType::kF32, {width}, p.gamma);
      both.beta = pair.Input("beta", DType::kF32, {width}, p.beta);
      both.y = pair.Output("y", type, shape);
      both.mean = pair.Output("mean", DType::kF32, {p.rows});
      both.inv_std = pair.Output("inv_std", DType::kF32, {p.rows});
      LayerNormArgs alone{.x = both.sum, .gamma = both.gamma, .beta = both.beta};
      alone.y = pair.Output("y alone", type, shape);
      alone.mean = pair.Output("mean alone", DType::kF32, {p.rows});
      alone.inv_std = pair.Output("inv_std alone", DType::kF32, {p.rows});
      Program program;
      program.Add(both);
      program.Add(alone);
      ASSERT_THAT(pair.RunProgram(program), IsOk());
      EXPECT_TRUE(pair.Cuda(alone.y) == pair.Cuda(both.y));
      EXPECT_TRUE(pair.Cuda(alone.mean) == pair.Cuda(both.mean));
      EXPECT_TRUE(pair.Cuda(alone.inv_std) == pair.Cuda(both.inv_std));
    }
  }
}

// ---- backward -----------------------------------------------------------------------------------

struct GradCase {
  int64_t rows, width;
  DType grad_y = DType::kBf16, cast = DType::kBf16;
  bool residual = true, in_place = true, has_cast = true, accumulate = true;
  DType x = DType::kF32;
};

std::string ExpectGradNearCpu(const GradCase& c) {
  SCOPED_TRACE(testing::Message() << c.rows << " x " << c.width << ", " << DTypeName(c.grad_y)
                                  << ", x " << DTypeName(c.x) << ", residual " << c.residual
                                  << ", cast " << c.has_cast);
  const Problem p = MakeProblem(c.rows, c.width, c.grad_y, c.x);
  const Shape shape = {c.rows, c.width};
  OpPair pair(c.cast);
  LayerNormGradArgs args;
  args.grad_y = pair.Input("grad_y", c.grad_y, shape, p.grad_y);
  args.x = pair.Input("x", c.x, shape, p.x);
  args.mean = pair.Input("mean", DType::kF32, {c.rows}, p.mean);
  args.inv_std = pair.Input("inv_std", DType::kF32, {c.rows}, p.inv_std);
  args.gamma = pair.Input("gamma", DType::kF32, {c.width}, p.gamma);
  if (c.residual) {
    args.grad_residual = pair.Input("grad_residual", DType::kF32, shape, p.grad_residual);
  }
  args.grad_x =
      c.residual && c.in_place ? args.grad_residual : pair.Output("grad_x", DType::kF32, shape);
  if (c.has_cast) args.grad_x_cast = pair.Output("grad_x_cast", c.cast, shape);
  const Doubles start(c.width, 3.0);
  args.grad_gamma = pair.Input("grad_gamma", DType::kF32, {c.width}, start, Arena::kGradients);
  args.grad_beta = pair.Input("grad_beta", DType::kF32, {c.width}, start, Arena::kGradients);
  args.accumulate = c.accumulate;
  EXPECT_THAT(pair.Run(args), IsOk());
  pair.ExpectNear(args.grad_x, 0x1p-21, 4 * F32Error(c.width));
  if (c.has_cast) pair.ExpectNear(args.grad_x_cast, 2 * HalfUlp(c.cast), 4 * F32Error(c.width));
  // Terms below 16 in f32, each rounded once on each side.
  const double sum_error = 2 * static_cast<double>(c.rows) * 0x1p-24 * 64;
  pair.ExpectNear(args.grad_gamma, 0x1p-23, sum_error);
  pair.ExpectNear(args.grad_beta, 0x1p-23, sum_error);
  return pair.variant();
}

TEST(LayerNormGradCudaTest, VectorVariantMatchesTheCpuAtEveryWidth) {
  for (const int64_t width : {4, 128, 192, 256, 260, 384, 768, 1028, 1664, 2048}) {
    for (const DType x : kTypes) {
      EXPECT_EQ(ExpectGradNearCpu({.rows = 13, .width = width, .x = x}), "vector");
    }
  }
}

TEST(LayerNormGradCudaTest, SimpleVariantMatchesTheCpuAtEveryWidth) {
  for (const int64_t width : {1, 7, 301, 2052}) {
    for (const DType x : kTypes) {
      EXPECT_THAT(ExpectGradNearCpu({.rows = 5, .width = width, .x = x}),
                  StartsWith("simple: width "));
    }
  }
}

TEST(LayerNormGradCudaTest, EveryOptionalOperandAndTypeInBothVariants) {
  for (const int64_t width : {68, 67}) {
    for (const DType grad_y : kTypes) {
      for (const DType cast : kTypes) {
        for (const DType x : kTypes) {
          (void)ExpectGradNearCpu(
              {.rows = 7, .width = width, .grad_y = grad_y, .cast = cast, .x = x});
        }
      }
      (void)ExpectGradNearCpu({.rows = 7, .width = width, .grad_y = grad_y, .has_cast = false});
      (void)ExpectGradNearCpu(
          {.rows = 7, .width = width, .grad_y = grad_y, .residual = false, .accumulate = false});
      (void)ExpectGradNearCpu({.rows = 7, .width = width, .grad_y = grad_y, .in_place = false});
    }
    (void)ExpectGradNearCpu({.rows = 1, .width = width});
  }
}

// y once more is forward's, and changes nothing else.
void ExpectForwardsOutputAgain(int64_t width, DType x_type, DType y_type) {
  SCOPED_TRACE(testing::Message() << "width " << width << ", " << DTypeName(x_type) << " to "
                                  << DTypeName(y_type));
  const Problem p = MakeProblem(7, width, y_type, x_type);
  const Shape shape = {p.rows, width};
  OpPair pair(y_type);
  LayerNormArgs forward;
  forward.x = pair.Input("x", x_type, shape, p.x);
  forward.gamma = pair.Input("gamma", DType::kF32, {width}, p.gamma);
  forward.beta = pair.Input("beta", DType::kF32, {width}, p.beta);
  forward.y = pair.Output("y", y_type, shape);
  forward.mean = pair.Output("mean", DType::kF32, {p.rows});
  forward.inv_std = pair.Output("inv_std", DType::kF32, {p.rows});
  LayerNormGradArgs grad;
  grad.grad_y = pair.Input("grad_y", y_type, shape, p.grad_y);
  grad.x = forward.x, grad.mean = forward.mean, grad.inv_std = forward.inv_std;
  grad.gamma = forward.gamma;
  grad.grad_x = pair.Output("grad_x", DType::kF32, shape);
  grad.grad_gamma = pair.Output("grad_gamma", DType::kF32, {width}, Arena::kGradients);
  grad.grad_beta = pair.Output("grad_beta", DType::kF32, {width}, Arena::kGradients);
  LayerNormGradArgs again = grad;
  again.beta = forward.beta;
  again.y = pair.Output("y again", y_type, shape);
  again.grad_x = pair.Output("grad_x again", DType::kF32, shape);
  again.grad_gamma = pair.Output("grad_gamma again", DType::kF32, {width}, Arena::kGradients);
  again.grad_beta = pair.Output("grad_beta again", DType::kF32, {width}, Arena::kGradients);
  Program program;
  program.Add(forward);
  program.Add(grad);
  program.Add(again);
  ASSERT_THAT(pair.RunProgram(program), IsOk());
  pair.ExpectNear(forward.y, 2 * HalfUlp(y_type), F32Error(width));
  EXPECT_TRUE(pair.Cuda(again.y) == pair.Cuda(forward.y));
  EXPECT_TRUE(pair.Cuda(again.grad_x) == pair.Cuda(grad.grad_x));
  EXPECT_TRUE(pair.Cuda(again.grad_gamma) == pair.Cuda(grad.grad_gamma));
  EXPECT_TRUE(pair.Cuda(again.grad_beta) == pair.Cuda(grad.grad_beta));
}

TEST(LayerNormGradCudaTest, GivesForwardsOutputAgainToTheBit) {
  for (const int64_t width : {4, 384, 1028, 67, 2052}) {
    for (const DType x : kTypes) {
      for (const DType y : kTypes) ExpectForwardsOutputAgain(width, x, y);
    }
  }
}

// More rows than the device holds blocks: a block walks several groups of rows, the last block
// fewer.
TEST(LayerNormGradCudaTest, TilesOfManyRowsSumAllOfThem) {
  EXPECT_EQ(ExpectGradNearCpu({.rows = 1327, .width = 1664}), "vector");
  EXPECT_THAT(ExpectGradNearCpu({.rows = 799, .width = 5}), StartsWith("simple"));
}

}  // namespace
}  // namespace vitscale
