// Linear and its gradients on CUDA against the CPU.
//
// Bounds: each side is within Error of the exact result, so the two are within twice that. What
// cuBLASLt does differently is added: a bias in the dtype of the output.

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/kernels/reference/linear_reference.h"
#include "tests/status_matchers.h"
#ifdef VITSCALE_CUDA_ON_CPU
#include <cublasLt.h>

#include "tests/cuda_on_cpu/cublaslt_standin.h"
#endif

namespace vitscale {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Problem {
  int64_t rows, in;
  std::vector<int64_t> outs;
  int64_t out() const {
    int64_t sum = 0;
    for (const int64_t width : outs) sum += width;
    return sum;
  }
};
std::string Text(const Problem& p) {
  return absl::StrCat(p.rows, " rows, ", p.in, " in, ", absl::StrJoin(p.outs, "+"), " out");
}

// One row; one part and three; widths that are multiples of 8, of 4 and odd.
const Problem kProblems[] = {{1, 16, {16}},  {49, 64, {64, 64, 64}}, {130, 25, {10}},
                             {33, 24, {12}}, {67, 48, {7, 9, 33}},   {200, 256, {64}}};

// Sums of `terms` products in f32, in any order, then one rounding of half an ulp `u`.
Doubles Error(const reference::Product<double>& product, int64_t terms, double u) {
  Doubles error(product.value.size());
  for (size_t i = 0; i < error.size(); ++i) {
    error[i] = static_cast<double>(terms + 2) * 0x1p-24 * product.magnitude[i] +
               u * std::abs(product.value[i]) + 1e-30;
  }
  return error;
}
// A device's library may have no algorithm where the stand-in has one; the other variant takes
// over.
void ExpectVariant(const OpPair& pair, const std::string& name, const std::string& how) {
#ifdef VITSCALE_CUDA_ON_CPU
  EXPECT_EQ(pair.variant(), absl::StrCat(name, ", ", how));
#else
  EXPECT_THAT(pair.variant(), StartsWith(absl::StrCat(name, ", ")));
#endif
}
std::string UnfusedWidth(int64_t width) {
  return absl::StrCat("unfused: width ", width, " is no multiple of 8");
}
Doubles Twice(Doubles values) {
  for (double& value : values) value *= 2;
  return values;
}

class LinearCudaTest : public testing::TestWithParam<DType> {
 protected:
  DType dtype() const { return GetParam(); }

  // Random values as `dtype` holds them.
  static Doubles Values(int64_t count, double deviation, uint64_t seed, DType dtype) {
    return Rounded(NormalValues(count, deviation, seed), dtype);
  }
  // [rows, sum of outs] cut into parts along the columns.
  static WeightParts Parts(OpPair& pair, const char* name, int64_t rows, const Problem& p,
                           const Doubles& whole, Arena arena) {
    WeightParts parts;
    int64_t column = 0;
    for (const int64_t width : p.outs) {
      Doubles part;
      for (int64_t row = 0; row < rows; ++row) {
        const auto begin = whole.begin() + row * p.out() + column;
        part.insert(part.end(), begin, begin + width);
      }
      const Shape shape = rows == 1 ? Shape{width} : Shape{rows, width};
      parts.push_back(pair.Input(absl::StrCat(name, column), DType::kF32, shape, part, arena));
      column += width;
    }
    return parts;
  }
};
INSTANTIATE_TEST_SUITE_P(ComputeDType, LinearCudaTest, testing::Values(DType::kBf16, DType::kF32),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

// A Linear with its operands, and what it should give before the epilogue.
struct Forward {
  Forward(OpPair& pair, const Problem& problem, DType x_type, DType w_type, DType y_type)
      : p(problem),
        x(Rounded(NormalValues(p.rows * p.in, 1, 1), x_type)),
        w(Rounded(NormalValues(p.in * p.out(), 1 / std::sqrt(p.in), 2), DType::kF32)),
        b(Rounded(NormalValues(p.out(), 1, 3), DType::kF32)),
        z(reference::Matmul(x, {p.in, 1}, Rounded(w, w_type), {p.out(), 1}, p.rows, p.in,
                            p.out())) {
    args.x = pair.Input("x", x_type, {p.rows, p.in}, x);
    args.y = pair.Output("y", y_type, {p.rows, p.out()});
  }
  // Bounds of z + bias when the bias is rounded to `y_type` on one side.
  void AddBias(WeightParts parts, DType y_type) {
    args.bias = std::move(parts);
    for (size_t i = 0; i < z.value.size(); ++i) {
      const double bias = b[i % b.size()];
      z.value[i] += bias;
      z.magnitude[i] += std::abs(bias);
      bias_error.push_back(y_type == DType::kBf16 ? 0x1p-8 * std::abs(bias) : 0);
    }
  }
  Doubles Bound(double u) const {
    Doubles bound = Twice(Error(z, p.in, u));
    for (size_t i = 0; i < bias_error.size(); ++i) bound[i] += bias_error[i];
    return bound;
  }

  Problem p;
  Doubles x, w, b;
  reference::Product<double> z;
  Doubles bias_error;
  LinearArgs args;
};

TEST_P(LinearCudaTest, ProductPlusBiasIsFusedForEveryShapeAndOutput) {
  for (const Problem& p : kProblems) {
    for (const DType y_type : {dtype(), DType::kF32}) {
      for (const bool bias : {false, true}) {
        SCOPED_TRACE(absl::StrCat(Text(p), bias ? ", bias" : ""));
        OpPair pair(dtype());
        Forward forward(pair, p, dtype(), dtype(), y_type);
        forward.args.weight = Parts(pair, "w", p.in, p, forward.w, Arena::kParameters);
        if (bias) {
          forward.AddBias(Parts(pair, "b", 1, p, forward.b, Arena::kParameters), y_type);
        }
        ASSERT_THAT(pair.Run(forward.args), IsOk());
        ExpectVariant(pair, bias ? "bias" : "product", "fused");
        pair.ExpectWithin(forward.args.y, forward.Bound(HalfUlp(y_type)));
      }
    }
  }
}

TEST_P(LinearCudaTest, GeluKeepsThePreActivationUnlessItIsAbsent) {
  for (const Problem& p : {Problem{65, 64, {256}}, {17, 16, {12}}, {9, 40, {7}}}) {
    Doubles kept;
    for (const bool keep : {true, false}) {
      SCOPED_TRACE(absl::StrCat(Text(p), keep ? ", kept" : ""));
      OpPair pair(dtype());
      Forward forward(pair, p, dtype(), dtype(), dtype());
      LinearArgs& args = forward.args;
      args.weight = Parts(pair, "w", p.in, p, forward.w, Arena::kParameters);
      forward.AddBias(Parts(pair, "b", 1, p, forward.b, Arena::kParameters), dtype());
      args.epilogue = LinearEpilogue::kGelu;
      if (keep) args.pre_activation = pair.Output("pre", dtype(), {p.rows, p.out()});
      ASSERT_THAT(pair.Run(args), IsOk());
      ExpectVariant(pair, "bias and GELU", "fused");
      Doubles bound = forward.Bound(HalfUlp(dtype()));
      if (keep) pair.ExpectWithin(args.pre_activation, bound);
      for (size_t i = 0; i < bound.size(); ++i) {  // |gelu'| <= 1.13; its own error on two sides
        const double y = reference::Gelu(forward.z.value[i]);
        bound[i] = 1.13 * bound[i] + 2 * HalfUlp(dtype()) * std::abs(y) + 8e-7;
      }
      pair.ExpectWithin(args.y, bound);
      if (keep) kept = pair.Cuda(args.y);
      EXPECT_TRUE(pair.Cuda(args.y) == kept) << "bits depend on whether the pre-activation is kept";
    }
  }
}

void ExpectResidualIsAdded(OpPair& pair, Forward& forward, bool in_place, const std::string& how) {
  LinearArgs& args = forward.args;
  const Doubles residual =
      Rounded(NormalValues(forward.p.rows * forward.p.out(), 3, 4), DType::kF32);
  args.epilogue = LinearEpilogue::kResidual;
  args.residual = pair.Input("residual", DType::kF32, {forward.p.rows, forward.p.out()}, residual);
  if (in_place) args.y = args.residual;
  ASSERT_THAT(pair.Run(args), IsOk());
  ExpectVariant(pair, "bias and residual", how);
  for (size_t i = 0; i < residual.size(); ++i) {
    forward.z.value[i] += residual[i];
    forward.z.magnitude[i] += std::abs(residual[i]);
  }
  pair.ExpectWithin(args.y, forward.Bound(0x1p-24));
}

TEST_P(LinearCudaTest, ResidualIsAddedInF32EvenInPlace) {
  for (const bool in_place : {true, false}) {
    const Problem p{75, 128, {64}};
    OpPair pair(dtype());
    Forward forward(pair, p, dtype(), dtype(), DType::kF32);
    forward.args.weight = Parts(pair, "w", p.in, p, forward.w, Arena::kParameters);
    forward.AddBias(Parts(pair, "b", 1, p, forward.b, Arena::kParameters), DType::kF32);
    ExpectResidualIsAdded(pair, forward, in_place, "fused");
  }
}

TEST_P(LinearCudaTest, FullPrecisionMultipliesInF32WhateverTheOperands) {
  for (const Problem& p : {Problem{41, 64, {10}}, {40, 32, {12}}, {3, 7, {5}}}) {
    for (const DType x_type : {dtype(), DType::kF32}) {
      for (const DType y_type : {dtype(), DType::kF32}) {
        SCOPED_TRACE(absl::StrCat(Text(p), " ", DTypeName(x_type), " to ", DTypeName(y_type)));
        OpPair pair(dtype());
        Forward forward(pair, p, x_type, DType::kF32, y_type);
        forward.args.weight = Parts(pair, "w", p.in, p, forward.w, Arena::kParameters);
        forward.AddBias(Parts(pair, "b", 1, p, forward.b, Arena::kParameters), DType::kF32);
        forward.args.full_precision = true;
        ASSERT_THAT(pair.Run(forward.args), IsOk());
        ExpectVariant(pair, "bias",
                      y_type == DType::kF32 ? "fused" : "unfused: f32 products into bf16");
        pair.ExpectWithin(forward.args.y, forward.Bound(HalfUlp(y_type)));
      }
    }
  }
}

#ifdef VITSCALE_CUDA_ON_CPU
TEST_P(LinearCudaTest, WhatTheLibraryCannotFuseIsDoneBehindTheProduct) {
  const Problem p{30, 24, {16, 16}};
  {
    OpPair pair(dtype());
    Forward forward(pair, p, dtype(), dtype(), DType::kF32);
    forward.args.weight = Parts(pair, "w", p.in, p, forward.w, Arena::kParameters);
    forward.AddBias(Parts(pair, "b", 1, p, forward.b, Arena::kParameters), DType::kF32);
    cuda_on_cpu::RefuseEpilogue(CUBLASLT_EPILOGUE_BIAS);
    ExpectResidualIsAdded(pair, forward, /*in_place=*/true,
                          "unfused: cuBLASLt: look for algorithms: no algorithm "
                          "with this epilogue (CUBLAS_STATUS_NOT_SUPPORTED)");
  }
  for (const bool keep : {true, false}) {
    OpPair pair(dtype());
    Forward forward(pair, p, dtype(), dtype(), dtype());
    LinearArgs& args = forward.args;
    args.weight = Parts(pair, "w", p.in, p, forward.w, Arena::kParameters);
    forward.AddBias(Parts(pair, "b", 1, p, forward.b, Arena::kParameters), DType::kF32);
    args.epilogue = LinearEpilogue::kGelu;
    if (keep) args.pre_activation = pair.Output("pre", dtype(), {p.rows, p.out()});
    ASSERT_THAT(pair.Run(args), IsOk());
    EXPECT_THAT(pair.variant(), StartsWith("bias and GELU, unfused: cuBLASLt"));
    Doubles bound = forward.Bound(HalfUlp(dtype()));
    if (keep) pair.ExpectWithin(args.pre_activation, bound);
    for (size_t i = 0; i < bound.size(); ++i) {
      const double y = reference::Gelu(forward.z.value[i]);
      bound[i] = 1.13 * bound[i] + 2 * HalfUlp(dtype()) * std::abs(y) + 8e-7;
    }
    pair.ExpectWithin(args.y, bound);
  }
  cuda_on_cpu::RefuseEpilogue(0);
}
#endif

struct Backward {
  Backward(OpPair& pair, const Problem& problem, DType y_type, DType w_type, DType x_type)
      : p(problem),
        g(Rounded(NormalValues(p.rows * p.out(), 1, 1), y_type)),
        w(Rounded(NormalValues(p.in * p.out(), 1 / std::sqrt(p.out()), 2), DType::kF32)),
        z(reference::Matmul(g, {p.out(), 1}, Rounded(w, w_type), {1, p.out()}, p.rows, p.out(),
                            p.in)) {
    args.grad_y = pair.Input("grad_y", y_type, {p.rows, p.out()}, g);
    args.grad_x = pair.Output("grad_x", x_type, {p.rows, p.in});
  }

  Problem p;
  Doubles g, w;
  reference::Product<double> z;
  LinearGradInputArgs args;
};

TEST_P(LinearCudaTest, GradInputIsTheProductWithTheTransposedWeight) {
  for (const Problem& p : kProblems) {
    for (const DType x_type : {dtype(), DType::kF32}) {
      SCOPED_TRACE(Text(p));
      OpPair pair(dtype());
      Backward backward(pair, p, dtype(), dtype(), x_type);
      backward.args.weight = Parts(pair, "w", p.in, p, backward.w, Arena::kParameters);
      ASSERT_THAT(pair.Run(backward.args), IsOk());
      ExpectVariant(pair, "product", "fused");
      pair.ExpectWithin(backward.args.grad_x, Twice(Error(backward.z, p.out(), HalfUlp(x_type))));
    }
  }
}

TEST_P(LinearCudaTest, GradInputInFullPrecision) {
  for (const DType y_type : {dtype(), DType::kF32}) {
    for (const DType x_type : {dtype(), DType::kF32}) {
      const Problem p{41, 64, {10}};
      OpPair pair(dtype());
      Backward backward(pair, p, y_type, DType::kF32, x_type);
      backward.args.weight = Parts(pair, "w", p.in, p, backward.w, Arena::kParameters);
      backward.args.full_precision = true;
      ASSERT_THAT(pair.Run(backward.args), IsOk());
      pair.ExpectWithin(backward.args.grad_x, Twice(Error(backward.z, p.out(), HalfUlp(x_type))));
    }
  }
}

TEST_P(LinearCudaTest, GradInputWithPreActivationMultipliesByTheSlopeOfGelu) {
  for (const Problem& p : {Problem{50, 40, {24}}, {20, 12, {16}}, {20, 25, {16}}}) {
    SCOPED_TRACE(Text(p));
    OpPair pair(dtype());
    Backward backward(pair, p, dtype(), dtype(), dtype());
    const Doubles pre = Values(p.rows * p.in, 1, 5, dtype());
    backward.args.weight = Parts(pair, "w", p.in, p, backward.w, Arena::kParameters);
    backward.args.pre_activation = pair.Input("pre", dtype(), {p.rows, p.in}, pre);
    ASSERT_THAT(pair.Run(backward.args), IsOk());
    ExpectVariant(pair, "product and GELU's gradient",
                  p.in % 8 == 0 ? "fused" : UnfusedWidth(p.in));
    // The CPU rounds the product before it multiplies by the slope (at most 1.13, exact to 4e-7),
    // and both round at the end.
    Doubles bound = Twice(Error(backward.z, p.out(), HalfUlp(dtype())));
    for (size_t i = 0; i < bound.size(); ++i) {
      const double z = std::abs(backward.z.value[i]);
      bound[i] = 1.13 * (bound[i] + 2 * HalfUlp(dtype()) * z) + 8e-7 * z;
    }
    pair.ExpectWithin(backward.args.grad_x, bound);
  }
}

// The GELU that backward computes again is forward's, the gradient is what it is without, and the
// value may take the place of what it is made of.
TEST_P(LinearCudaTest, GradInputGivesTheGeluOfForwardAgainToTheBit) {
  for (const Problem& p : {Problem{50, 48, {40}}, {20, 16, {12}}, {9, 24, {7}}}) {
    for (const bool in_place : {false, true}) {
      SCOPED_TRACE(absl::StrCat(Text(p), in_place ? ", in place" : ""));
      const Shape hidden = {p.rows, p.out()};
      OpPair pair(dtype());
      Forward first(pair, p, dtype(), dtype(), dtype());
      LinearArgs& forward = first.args;
      forward.weight = Parts(pair, "w", p.in, p, first.w, Arena::kParameters);
      forward.epilogue = LinearEpilogue::kGelu;
      forward.pre_activation = pair.Output("pre", dtype(), hidden);
      const Problem back{p.rows, p.out(), {p.in}};
      Backward second(pair, back, dtype(), dtype(), dtype());
      LinearGradInputArgs& grad = second.args;
      grad.weight = Parts(pair, "back", back.in, back, second.w, Arena::kParameters);
      grad.pre_activation = forward.pre_activation;
      LinearGradInputArgs again = grad;
      again.grad_x = pair.Output("grad_x again", dtype(), hidden);
      again.activation =
          in_place ? forward.pre_activation : pair.Output("y again", dtype(), hidden);
      Program program;
      program.Add(forward);
      program.Add(grad);
      program.Add(again);
      ASSERT_THAT(pair.RunProgram(program), IsOk());
      const char* fused = p.out() % 8 == 0 ? "GELU again, fused" : "GELU again, unfused";
      EXPECT_THAT(pair.variants(), Contains(HasSubstr(fused)));
      EXPECT_TRUE(pair.Cuda(again.activation) == pair.Cuda(forward.y));
      EXPECT_TRUE(pair.Cuda(again.grad_x) == pair.Cuda(grad.grad_x));
    }
  }
}

struct GradWeightCase {
  Problem p;
  DType x_type, y_type;
  bool accumulate, full_precision;
};

void ExpectGradWeightNearCpu(const GradWeightCase& c, DType compute) {
  const Problem& p = c.p;
  const auto arena = Arena::kGradients;
  const Doubles x = Rounded(NormalValues(p.rows * p.in, 1, 1), c.x_type);
  const Doubles g = Rounded(NormalValues(p.rows * p.out(), 1, 2), c.y_type);
  OpPair pair(compute);
  LinearGradWeightArgs args;
  args.x = pair.Input("x", c.x_type, {p.rows, p.in}, x);
  args.grad_y = pair.Input("grad_y", c.y_type, {p.rows, p.out()}, g);
  for (const int64_t out : p.outs) {
    args.grad_weight.push_back(
        pair.Input("grad_weight", DType::kF32, {p.in, out}, NormalValues(p.in * out, 1, 3), arena));
    args.grad_bias.push_back(
        pair.Input("grad_bias", DType::kF32, {out}, NormalValues(out, 1, 4), arena));
  }
  args.accumulate = c.accumulate;
  args.full_precision = c.full_precision;
  ASSERT_THAT(pair.Run(args), IsOk());
  // The greatest magnitude of a sum of rows, with what was there before (at most 6 deviations).
  const auto weight = reference::Matmul(x, {1, p.in}, g, {p.out(), 1}, p.in, p.rows, p.out());
  const auto bias =
      reference::Matmul(Doubles(p.rows, 1.0), {p.rows, 1}, g, {p.out(), 1}, 1, p.rows, p.out());
  const auto bound = [&](const reference::Product<double>& sum) {
    const double most = *std::max_element(sum.magnitude.begin(), sum.magnitude.end());
    return 2 * static_cast<double>(p.rows + 3) * 0x1p-24 * (most + 6);
  };
  for (size_t i = 0; i < p.outs.size(); ++i) {
    pair.ExpectNear(args.grad_weight[i], 0, bound(weight));
    pair.ExpectNear(args.grad_bias[i], 0, bound(bias));
  }
}

TEST_P(LinearCudaTest, GradWeightAndBiasAreSumsOverRowsWrittenOrAdded) {
  for (const Problem& p :
       {Problem{1, 16, {16}}, {300, 64, {64, 64, 64}}, {277, 25, {10}}, {129, 30, {7, 90, 33}}}) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(absl::StrCat(Text(p), accumulate ? ", added" : ""));
      ExpectGradWeightNearCpu({p, dtype(), dtype(), accumulate, false}, dtype());
    }
  }
}

TEST_P(LinearCudaTest, GradWeightInFullPrecisionTakesMixedOperands) {
  const Problem p{70, 24, {10, 6}};
  for (const DType x_type : {dtype(), DType::kF32}) {
    for (const DType y_type : {dtype(), DType::kF32}) {
      SCOPED_TRACE(absl::StrCat(DTypeName(x_type), " and ", DTypeName(y_type)));
      ExpectGradWeightNearCpu({p, x_type, y_type, false, true}, dtype());
    }
  }
}

// A program that changes parameters and prepares weights, and one that uses them, as a trainer has
// them: copies made for the second are renewed by the first.
TEST_P(LinearCudaTest, PrepareWeightsRenewsCopiesOfEveryOpThatUsesThem) {
  const Problem p{5, 16, {8, 24}};
  OpPair pair(dtype());
  Forward forward(pair, p, dtype(), dtype(), dtype());
  const WeightParts weight = Parts(pair, "w", p.in, p, forward.w, Arena::kParameters);
  const WeightParts other =
      Parts(pair, "other", p.in, p, Doubles(forward.w.size(), 0.5), Arena::kParameters);
  forward.args.weight = weight;
  Program program;
  program.Add(forward.args);
  for (size_t i = 0; i < weight.size(); ++i) program.Add(CopyArgs{other[i], weight[i]});
  program.Add(PrepareWeightsArgs{{weight}});
  LinearArgs again = forward.args;
  again.y = pair.Output("again", dtype(), {p.rows, p.out()});
  program.Add(again);
  ASSERT_THAT(pair.RunProgram(program), IsOk());
  EXPECT_THAT(pair.variants(), Contains(HasSubstr("PrepareWeights")));
  pair.ExpectWithin(forward.args.y, forward.Bound(HalfUlp(dtype())));
  const auto want = reference::Matmul(forward.x, {p.in, 1}, Doubles(forward.w.size(), 0.5),
                                      {p.out(), 1}, p.rows, p.in, p.out());
  pair.ExpectWithin(again.y, Twice(Error(want, p.in, HalfUlp(dtype()))));
}

}  // namespace
}  // namespace vitscale
