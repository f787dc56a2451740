// Linear, LinearGradInput and LinearGradWeight, every variant against the f64 reference.

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/bf16.h"
#include "kernels/cpu/matmul.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/reference/linear_reference.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

struct Problem {
  int64_t rows, in;
  std::vector<int64_t> outs;
  int64_t out() const {
    int64_t sum = 0;
    for (int64_t width : outs) sum += width;
    return sum;
  }
};

// Narrow and wide, one part and three, odd sizes, one row; tall ones take the oneDNN way.
const Problem kProblems[] = {{1, 16, {16}},        {49, 64, {64, 64, 64}},   {130, 25, {10}},
                             {67, 48, {7, 9, 33}}, {200, 256, {64}},         {33, 64, {256}},
                             {1300, 40, {400}},    {1100, 64, {64, 64, 64}}, {70, 512, {384, 16}}};

std::string Text(const Problem& p) {
  return absl::StrCat(p.rows, " rows, ", p.in, " in, ", absl::StrJoin(p.outs, "+"), " out");
}

// Parts of a [in, out] matrix side by side, and back.
std::vector<Doubles> Split(const Doubles& whole, int64_t in, const std::vector<int64_t>& outs) {
  const int64_t out = static_cast<int64_t>(whole.size()) / in;
  std::vector<Doubles> parts;
  for (int64_t column = 0; int64_t width : outs) {
    Doubles& part = parts.emplace_back();
    for (int64_t i = 0; i < in; ++i) {
      part.insert(part.end(), whole.begin() + i * out + column,
                  whole.begin() + i * out + column + width);
    }
    column += width;
  }
  return parts;
}

// Weights as a variant multiplies them: rounded to bf16 in a bf16 program.
Doubles Seen(const Doubles& weight, DType dtype) { return Rounded(weight, dtype); }

// Sums of k products in f32, in whatever order; then one rounding of half an ulp `u`.
Doubles Bound(const reference::Product<double>& product, int64_t k, double u) {
  Doubles bound(product.value.size());
  for (size_t i = 0; i < bound.size(); ++i) {
    bound[i] = static_cast<double>(k + 2) * 0x1p-24 * product.magnitude[i] +
               u * std::abs(product.value[i]) + 1e-30;
  }
  return bound;
}

class LinearTest : public testing::TestWithParam<Variant> {
 protected:
  WeightParts Weight(OpBench& bench, const Problem& p, const Doubles& weight) {
    WeightParts parts;
    const std::vector<Doubles> values = Split(weight, p.in, p.outs);
    for (size_t i = 0; i < values.size(); ++i) {
      parts.push_back(bench.Input(absl::StrCat("weight", i), DType::kF32, {p.in, p.outs[i]},
                                  values[i], Arena::kParameters));
    }
    return parts;
  }
  WeightParts Bias(OpBench& bench, const Problem& p, const Doubles& bias) {
    WeightParts parts;
    const std::vector<Doubles> values = Split(bias, 1, p.outs);
    for (size_t i = 0; i < values.size(); ++i) {
      parts.push_back(bench.Input(absl::StrCat("bias", i), DType::kF32, {p.outs[i]}, values[i],
                                  Arena::kParameters));
    }
    return parts;
  }
  DType dtype() const { return GetParam().dtype; }
};
INSTANTIATE_TEST_SUITE_P(EveryVariant, LinearTest, testing::ValuesIn(AllVariants()), VariantName);

TEST_P(LinearTest, GivesTheProductPlusBias) {
  for (const Problem& p : kProblems) {
    for (const DType y_type : {dtype(), DType::kF32}) {
      SCOPED_TRACE(Text(p));
      const Doubles x = Rounded(NormalValues(p.rows * p.in, 1, 1), dtype());
      const Doubles w = Rounded(NormalValues(p.in * p.out(), 0.5, 2), DType::kF32);
      const Doubles b = Rounded(NormalValues(p.out(), 1, 3), DType::kF32);
      OpBench bench(GetParam());
      LinearArgs args;
      args.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
      args.weight = Weight(bench, p, w);
      args.bias = Bias(bench, p, b);
      args.y = bench.Output("y", y_type, {p.rows, p.out()});
      ASSERT_THAT(bench.Run(args), IsOk());
      auto want =
          reference::Matmul(x, {p.in, 1}, Seen(w, dtype()), {p.out(), 1}, p.rows, p.in, p.out());
      for (size_t i = 0; i < want.value.size(); ++i) {
        want.value[i] += b[i % p.out()];
        want.magnitude[i] += std::abs(b[i % p.out()]);
      }
      ExpectWithin(bench.Values(args.y), want.value, Bound(want, p.in, HalfUlp(y_type)));
    }
  }
}

TEST_P(LinearTest, GeluEpilogueKeepsThePreActivationUnlessItIsAbsent) {
  const Problem p{100, 64, {256}};
  const Doubles x = Rounded(NormalValues(p.rows * p.in, 1, 1), dtype());
  const Doubles w = Rounded(NormalValues(p.in * p.out(), 0.125, 2), DType::kF32);
  for (const bool keep : {true, false}) {
    OpBench bench(GetParam());
    LinearArgs args;
    args.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
    args.weight = Weight(bench, p, w);
    args.epilogue = LinearEpilogue::kGelu;
    if (keep) args.pre_activation = bench.Output("pre", dtype(), {p.rows, p.out()});
    args.y = bench.Output("y", dtype(), {p.rows, p.out()});
    ASSERT_THAT(bench.Run(args), IsOk());
    const auto pre =
        reference::Matmul(x, {p.in, 1}, Seen(w, dtype()), {p.out(), 1}, p.rows, p.in, p.out());
    Doubles y, bound = Bound(pre, p.in, HalfUlp(dtype()));
    if (keep) ExpectWithin(bench.Values(args.pre_activation), pre.value, bound, "pre_activation");
    for (size_t i = 0; i < pre.value.size(); ++i) {
      y.push_back(reference::Gelu(pre.value[i]));
      bound[i] = 1.13 * bound[i] + HalfUlp(dtype()) * std::abs(y[i]) + 4e-7;  // |gelu'| <= 1.13
    }
    ExpectWithin(bench.Values(args.y), y, bound, "y");
  }
}

TEST_P(LinearTest, ResidualEpilogueAddsInF32EvenInPlace) {
  const Problem p{75, 256, {64}};
  const Doubles x = Rounded(NormalValues(p.rows * p.in, 1, 1), dtype());
  const Doubles w = Rounded(NormalValues(p.in * p.out(), 0.125, 2), DType::kF32);
  const Doubles residual = Rounded(NormalValues(p.rows * p.out(), 3, 4), DType::kF32);
  for (const bool in_place : {true, false}) {
    OpBench bench(GetParam());
    LinearArgs args;
    args.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
    args.weight = Weight(bench, p, w);
    args.epilogue = LinearEpilogue::kResidual;
    args.residual = bench.Input("residual", DType::kF32, {p.rows, p.out()}, residual);
    args.y = in_place ? args.residual : bench.Output("y", DType::kF32, {p.rows, p.out()});
    ASSERT_THAT(bench.Run(args), IsOk());
    auto want =
        reference::Matmul(x, {p.in, 1}, Seen(w, dtype()), {p.out(), 1}, p.rows, p.in, p.out());
    for (size_t i = 0; i < residual.size(); ++i) {
      want.value[i] += residual[i];
      want.magnitude[i] += std::abs(residual[i]);
    }
    ExpectWithin(bench.Values(args.y), want.value, Bound(want, p.in, 0x1p-24));
  }
}

TEST_P(LinearTest, FullPrecisionMultipliesInF32) {
  const Problem p{41, 64, {10}};
  const Doubles x = Rounded(NormalValues(p.rows * p.in, 1, 1), dtype());
  const Doubles w = Rounded(NormalValues(p.in * p.out(), 0.5, 2), DType::kF32);
  OpBench bench(GetParam());
  LinearArgs args;
  args.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
  args.weight = Weight(bench, p, w);
  args.y = bench.Output("y", DType::kF32, {p.rows, p.out()});
  args.full_precision = true;
  ASSERT_THAT(bench.Run(args), IsOk());
  const auto want = reference::Matmul(x, {p.in, 1}, w, {p.out(), 1}, p.rows, p.in, p.out());
  ExpectWithin(bench.Values(args.y), want.value, Bound(want, p.in, 0x1p-24));
}

TEST_P(LinearTest, GradInputIsTheProductWithTheTransposedWeight) {
  for (const Problem& p : kProblems) {
    SCOPED_TRACE(Text(p));
    const Doubles g = Rounded(NormalValues(p.rows * p.out(), 1, 1), dtype());
    const Doubles w = Rounded(NormalValues(p.in * p.out(), 0.5, 2), DType::kF32);
    OpBench bench(GetParam());
    LinearGradInputArgs args;
    args.grad_y = bench.Input("grad_y", dtype(), {p.rows, p.out()}, g);
    args.weight = Weight(bench, p, w);
    args.grad_x = bench.Output("grad_x", dtype(), {p.rows, p.in});
    ASSERT_THAT(bench.Run(args), IsOk());
    const auto want =
        reference::Matmul(g, {p.out(), 1}, Seen(w, dtype()), {1, p.out()}, p.rows, p.out(), p.in);
    ExpectWithin(bench.Values(args.grad_x), want.value, Bound(want, p.out(), HalfUlp(dtype())));
  }
}

TEST_P(LinearTest, GradInputWithPreActivationIsTheGradientOfGeluThenLinear) {
  const Problem p{20, 40, {24}};
  const Doubles g = Rounded(NormalValues(p.rows * p.out(), 1, 1), dtype());
  const Doubles w = Rounded(NormalValues(p.in * p.out(), 0.25, 2), DType::kF32);
  const Doubles pre = Rounded(NormalValues(p.rows * p.in, 1, 5), dtype());
  OpBench bench(GetParam());
  LinearGradInputArgs args;
  args.grad_y = bench.Input("grad_y", dtype(), {p.rows, p.out()}, g);
  args.weight = Weight(bench, p, w);
  args.pre_activation = bench.Input("pre", dtype(), {p.rows, p.in}, pre);
  args.grad_x = bench.Output("grad_x", dtype(), {p.rows, p.in});
  ASSERT_THAT(bench.Run(args), IsOk());
  const Doubles seen = Seen(w, dtype());
  const auto loss = [&](const Doubles& x) {  // sum of grad_y * (gelu(x) W)
    Doubles hidden;
    for (double value : x) hidden.push_back(reference::Gelu(value));
    const auto y = reference::Matmul(hidden, {p.in, 1}, seen, {p.out(), 1}, p.rows, p.in, p.out());
    double sum = 0;
    for (size_t i = 0; i < y.value.size(); ++i) sum += y.value[i] * g[i];
    return sum;
  };
  const auto hidden = reference::Matmul(g, {p.out(), 1}, seen, {1, p.out()}, p.rows, p.out(), p.in);
  Doubles bound = Bound(hidden, p.out(), HalfUlp(dtype()));
  const Doubles want = CentralDifferences(loss, pre);
  for (size_t i = 0; i < bound.size(); ++i) {  // 1e-7: the differences themselves
    bound[i] = 1.13 * bound[i] + HalfUlp(dtype()) * std::abs(want[i]) + 1e-6;
  }
  ExpectWithin(bench.Values(args.grad_x), want, bound);
}

// The GELU that backward computes again is forward's to the bit, and the gradient is what it is
// without; the value may take the place of what it is made of.
TEST_P(LinearTest, GradInputGivesTheGeluOfForwardAgainToTheBit) {
  const Problem p{150, 48, {40}};
  const Doubles x = Rounded(NormalValues(p.rows * p.in, 2, 1), dtype());
  const Doubles w = Rounded(NormalValues(p.in * p.out(), 0.5, 2), DType::kF32);
  const Doubles g = Rounded(NormalValues(p.rows * p.in, 1, 3), dtype());
  for (const bool in_place : {false, true}) {
    OpBench bench(GetParam());
    LinearArgs forward;
    forward.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
    forward.weight = Weight(bench, p, w);
    forward.epilogue = LinearEpilogue::kGelu;
    forward.pre_activation = bench.Output("pre", dtype(), {p.rows, p.out()});
    forward.y = bench.Output("y", dtype(), {p.rows, p.out()});
    LinearGradInputArgs grad;
    grad.grad_y = bench.Input("grad_y", dtype(), {p.rows, p.in}, g);
    const Problem back{p.rows, p.out(), {p.in}};
    grad.weight = Weight(bench, back, w);
    grad.pre_activation = forward.pre_activation;
    grad.grad_x = bench.Output("grad_x", dtype(), {p.rows, p.out()});
    LinearGradInputArgs again = grad;
    again.grad_x = bench.Output("grad_x again", dtype(), {p.rows, p.out()});
    again.activation =
        in_place ? forward.pre_activation : bench.Output("y again", dtype(), {p.rows, p.out()});
    Program program;
    program.Add(forward);
    program.Add(grad);
    program.Add(again);
    ASSERT_THAT(bench.RunProgram(std::move(program)), IsOk());
    EXPECT_TRUE(bench.Bytes(again.activation) == bench.Bytes(forward.y)) << in_place;
    EXPECT_TRUE(bench.Bytes(again.grad_x) == bench.Bytes(grad.grad_x)) << in_place;
  }
}

TEST_P(LinearTest, GradWeightIsXTransposedTimesGradYAndBiasTheColumnSums) {
  for (const Problem& p : {Problem{1, 16, {16}},
                           {300, 64, {64, 64, 64}},
                           {777, 25, {10}},
                           {513, 300, {7, 90, 33}},
                           {600, 16, {600}}}) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(Text(p));
      const Doubles x = Rounded(NormalValues(p.rows * p.in, 1, 1), dtype());
      const Doubles g = Rounded(NormalValues(p.rows * p.out(), 1, 2), dtype());
      const Doubles before = Rounded(NormalValues(p.in * p.out(), 1, 3), DType::kF32);
      OpBench bench(GetParam());
      LinearGradWeightArgs args;
      args.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
      args.grad_y = bench.Input("grad_y", dtype(), {p.rows, p.out()}, g);
      const std::vector<Doubles> parts = Split(before, p.in, p.outs);
      for (size_t i = 0; i < p.outs.size(); ++i) {
        args.grad_weight.push_back(bench.Input("grad_weight", DType::kF32, {p.in, p.outs[i]},
                                               parts[i], Arena::kGradients));
        args.grad_bias.push_back(bench.Input("grad_bias", DType::kF32, {p.outs[i]},
                                             Doubles(p.outs[i], 2.0), Arena::kGradients));
      }
      args.accumulate = accumulate;
      ASSERT_THAT(bench.Run(args), IsOk());
      auto weight = reference::Matmul(x, {1, p.in}, g, {p.out(), 1}, p.in, p.rows, p.out());
      auto bias =
          reference::Matmul(Doubles(p.rows, 1.0), {p.rows, 1}, g, {p.out(), 1}, 1, p.rows, p.out());
      for (size_t i = 0; accumulate && i < weight.value.size(); ++i) weight.value[i] += before[i];
      for (size_t i = 0; accumulate && i < bias.value.size(); ++i) bias.value[i] += 2;
      const auto want = Split(weight.value, p.in, p.outs);
      const auto bound = Split(Bound(weight, p.rows + 4, 0x1p-22), p.in, p.outs);
      const auto want_bias = Split(bias.value, 1, p.outs);
      const auto bound_bias = Split(Bound(bias, p.rows + 4, 0x1p-22), 1, p.outs);
      for (size_t i = 0; i < p.outs.size(); ++i) {
        ExpectWithin(bench.Values(args.grad_weight[i]), want[i], bound[i], "grad_weight");
        ExpectWithin(bench.Values(args.grad_bias[i]), want_bias[i], bound_bias[i], "grad_bias");
      }
    }
  }
}

TEST_P(LinearTest, GradWeightInFullPrecisionTakesMixedOperands) {
  const Problem p{70, 64, {10}};
  const Doubles x = Rounded(NormalValues(p.rows * p.in, 1, 1), dtype());
  const Doubles g = Rounded(NormalValues(p.rows * p.out(), 1, 2), DType::kF32);
  OpBench bench(GetParam());
  LinearGradWeightArgs args;
  args.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
  args.grad_y = bench.Input("grad_y", DType::kF32, {p.rows, p.out()}, g);
  args.grad_weight = {bench.Output("grad_weight", DType::kF32, {p.in, p.out()}, Arena::kGradients)};
  args.full_precision = true;
  ASSERT_THAT(bench.Run(args), IsOk());
  const auto want = reference::Matmul(x, {1, p.in}, g, {p.out(), 1}, p.in, p.rows, p.out());
  ExpectWithin(bench.Values(args.grad_weight[0]), want.value, Bound(want, p.rows, 0x1p-24));
}

TEST_P(LinearTest, BitsDoNotDependOnThreads) {
  for (const Problem& p : {Problem{777, 64, {64, 64, 64}}, {400, 384, {400}}}) {
    const Doubles x = NormalValues(p.rows * p.in, 1, 1), g = NormalValues(p.rows * p.out(), 1, 2);
    const Doubles w = NormalValues(p.in * p.out(), 0.5, 3);
    ExpectSameBitsForAnyThreads([&](int threads) {
      OpBench bench(GetParam(), threads);
      Program program;
      LinearArgs forward;
      forward.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
      forward.weight = Weight(bench, p, w);
      forward.y = bench.Output("y", dtype(), {p.rows, p.out()});
      LinearGradInputArgs backward;
      backward.grad_y = bench.Input("grad_y", dtype(), {p.rows, p.out()}, g);
      backward.weight = forward.weight;
      backward.grad_x = bench.Output("grad_x", dtype(), {p.rows, p.in});
      LinearGradWeightArgs weight;
      weight.x = forward.x;
      weight.grad_y = backward.grad_y;
      for (int64_t width : p.outs) {
        weight.grad_weight.push_back(
            bench.Output("grad_weight", DType::kF32, {p.in, width}, Arena::kGradients));
        weight.grad_bias.push_back(
            bench.Output("grad_bias", DType::kF32, {width}, Arena::kGradients));
      }
      program.Add(forward);
      program.Add(backward);
      program.Add(weight);
      EXPECT_THAT(bench.RunProgram(program), IsOk());
      std::vector<std::byte> all;
      std::vector<TensorView> results = {forward.y, backward.grad_x};
      results.insert(results.end(), weight.grad_weight.begin(), weight.grad_weight.end());
      results.insert(results.end(), weight.grad_bias.begin(), weight.grad_bias.end());
      for (const TensorView& view : results) {
        const std::vector<std::byte> bytes = bench.Bytes(view);
        all.insert(all.end(), bytes.begin(), bytes.end());
      }
      return all;
    });
  }
}

TEST_P(LinearTest, NaNReachesItsRowAndNoOther) {
  const Problem p{13, 64, {64}};
  Doubles x = Rounded(NormalValues(p.rows * p.in, 1, 1), dtype());
  x[5 * p.in + 3] = std::nan("");
  OpBench bench(GetParam());
  LinearArgs args;
  args.x = bench.Input("x", dtype(), {p.rows, p.in}, x);
  args.weight = Weight(bench, p, Doubles(p.in * p.out(), 1.0));
  args.y = bench.Output("y", DType::kF32, {p.rows, p.out()});
  ASSERT_THAT(bench.Run(args), IsOk());
  const Doubles y = bench.Values(args.y);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / p.out() == 5) << i;
}

// The two ways of matmul.h give the same product within the rounding of their sums.
TEST(PackedMatmulTest, OneDnnAndTilesAgree) {
  for (const bool bf16 : {false, true}) {
    for (const bool transposed : {false, true}) {
      const cpu::Isa isa = cpu::BestIsa();
      if (bf16 && isa != cpu::Isa::kAvx512Bf16) GTEST_SKIP() << "oneDNN multiplies no bf16 here";
      const int64_t rows = 50, in = 384, out = 448, k = transposed ? out : in,
                    columns = transposed ? in : out;
      cpu::MatmulShape shape{{rows}, in, out, bf16, /*bias=*/true, cpu::TileOut::kF32};
      const auto tile = cpu::MakeTileMatmul(shape, transposed, isa);
      auto dnnl = cpu::MakeDnnlMatmul(shape, transposed, 1);
      ASSERT_THAT(dnnl, IsOk());
      const int64_t element = bf16 ? 2 : 4;
      std::vector<float> blob_f32(in * out), x_f32(rows * k), bias(columns, 0.5f);
      const Doubles w = NormalValues(in * out, 1, 1), x = NormalValues(rows * k, 1, 2);
      std::vector<uint16_t> blob_bf16(in * out), x_bf16(rows * k);
      for (size_t i = 0; i < w.size(); ++i) blob_f32[i] = w[i], blob_bf16[i] = ToBf16(blob_f32[i]);
      for (size_t i = 0; i < x.size(); ++i) x_f32[i] = x[i], x_bf16[i] = ToBf16(x_f32[i]);
      const void* blob = bf16 ? static_cast<void*>(blob_bf16.data()) : blob_f32.data();
      const void* from = bf16 ? static_cast<void*>(x_bf16.data()) : x_f32.data();
      std::vector<Doubles> results;
      for (cpu::PackedMatmul* way : {tile.get(), dnnl->get()}) {
        std::vector<std::byte> packed(cpu::PackedBytes(way->format(), isa, in, out) + 64);
        std::vector<std::byte> scratch(way->scratch_bytes() + 64);
        cpu::PackWeight(way->format(), isa, in, out, blob, packed.data());
        std::vector<float> y(rows * columns);
        way->Multiply(0, rows, from, packed.data(), bias.data(), y.data(), scratch.data());
        results.emplace_back(y.begin(), y.end());
      }
      // Sums of 448 products of about 1: magnitude below 448, errors below 448 * 448 * 2^-24.
      ExpectNear(results[0], results[1], 0, 448.0 * 448 * 0x1p-24,
                 absl::StrCat(element, transposed));
    }
  }
}

TEST(LinearArgsTest, WrongShapesAreRejectedByName) {
  OpBench bench({cpu::Isa::kAvx2, DType::kF32});
  LinearArgs good;
  good.x = bench.Input("x", DType::kF32, {8, 16}, Doubles(128));
  good.weight = {bench.Input("kernel", DType::kF32, {16, 8}, Doubles(128), Arena::kParameters)};
  good.bias = {bench.Input("bias", DType::kF32, {8}, Doubles(8), Arena::kParameters)};
  good.y = bench.Output("y", DType::kF32, {8, 8});
  ASSERT_THAT(bench.Run(good), IsOk());
  const auto reject = [&](const LinearArgs& args, const std::string& message) {
    EXPECT_THAT(bench.Run(args), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  };
  LinearArgs args = good;
  args.weight[0].shape = {15, 8};
  reject(args, "op 0 Linear: weight (kernel) is [15, 8], want [16, any]");
  args = good;
  args.bias[0].shape = {7};
  reject(args, "op 0 Linear: bias is [7], want [8]");
  args = good;
  args.y.shape = {8, 9};
  reject(args, "op 0 Linear: y is [8, 9], want [8, 8]");
  args = good;
  args.epilogue = LinearEpilogue::kResidual;
  reject(args, "op 0 Linear: residual is absent, want [8, 8]");
  args = good;
  args.weight[0].dtype = DType::kBf16;
  reject(args, "op 0 Linear: weight (kernel) is bf16, want f32");
  args = good;
  args.y.offset += 4;
  reject(args, "want a multiple of 64");
  args = good;
  args.y.offset += 1 << 20;
  reject(args, "the size of the arena");
}

}  // namespace
}  // namespace vitscale
