// The elementary functions against f64: floats of every exponent, each instruction set.

#include <bit>
#include <cmath>
#include <functional>
#include <vector>

#include "kernels/cpu/gelu.h"
#include "kernels/cpu/vector_math_table.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/reference/elementary_reference.h"

namespace vitscale::cpu {
namespace {

using Function = void (*)(const float*, float*, int64_t);
using Exact = std::function<double(double)>;

constexpr uint32_t kStride = 4099;  // prime: all mantissas come by

// Every kStride-th float whose magnitude is between those of `low` and `high`, of one sign.
std::vector<float> FloatsBetween(float low, float high) {
  std::vector<float> floats;
  for (uint64_t bits = std::bit_cast<uint32_t>(low); bits <= std::bit_cast<uint32_t>(high);
       bits += kStride) {
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  floats.push_back(high);
  return floats;
}

double UnitInTheLastPlace(double value) {
  const int exponent = value == 0 ? -126 : std::max(-126, std::ilogb(value));
  return std::ldexp(1.0, exponent - 23);
}

// The largest error in units of the last place; NaN counts as infinite.
double WorstUlps(Function function, const Exact& exact, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  function(x.data(), y.data(), static_cast<int64_t>(x.size()));
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = exact(x[i]);
    const double error = std::abs(y[i] - want) / UnitInTheLastPlace(want);
    if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
  }
  return worst;
}

class VectorMathTest : public testing::TestWithParam<Isa> {
 protected:
  const VectorMathKernels& kernels() { return VectorMathKernelsFor(GetParam()); }
  static float Apply(Function function, float x) {
    float y;
    function(&x, &y, 1);
    return y;
  }
};
INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, VectorMathTest,
                         testing::ValuesIn(AllInstructionSets()),
                         [](const auto& info) { return IsaName(info.param); });

TEST_P(VectorMathTest, ExpIsWithinItsBoundFromZeroToOverflowAndDenormals) {
  const Exact exact = [](double x) { return std::exp(x); };
  EXPECT_LE(WorstUlps(kernels().exp, exact, FloatsBetween(0.0f, 88.72f)), 1.1);
  EXPECT_LE(WorstUlps(kernels().exp, exact, FloatsBetween(-0.0f, -110.0f)), 1.1);
}

TEST_P(VectorMathTest, ExpOfTheExtremesIsInfinityZeroAndNaN) {
  EXPECT_EQ(Apply(kernels().exp, 88.73f), INFINITY);
  EXPECT_EQ(Apply(kernels().exp, INFINITY), INFINITY);
  EXPECT_EQ(Apply(kernels().exp, -104.0f), 0.0f);
  EXPECT_EQ(Apply(kernels().exp, -INFINITY), 0.0f);
  EXPECT_EQ(Apply(kernels().exp, 0.0f), 1.0f);
  EXPECT_TRUE(std::isnan(Apply(kernels().exp, NAN)));
}

TEST_P(VectorMathTest, Log1pIsWithinItsBoundOnTheUnitInterval) {
  const Exact exact = [](double x) { return std::log1p(x); };
  EXPECT_LE(WorstUlps(kernels().log1p_unit, exact, FloatsBetween(0.0f, 1.0f)), 1.4);
  EXPECT_TRUE(std::isnan(Apply(kernels().log1p_unit, NAN)));
}

TEST_P(VectorMathTest, SigmoidIsWithinItsBoundInBothTails) {
  const Exact exact = [](double x) { return reference::Sigmoid(x); };
  EXPECT_LE(WorstUlps(kernels().sigmoid, exact, FloatsBetween(0.0f, 3e38f)), 2.5);
  EXPECT_LE(WorstUlps(kernels().sigmoid, exact, FloatsBetween(-0.0f, -87.0f)), 2.5);
  EXPECT_LE(Apply(kernels().sigmoid, -INFINITY), 2e-38f);
  EXPECT_TRUE(std::isnan(Apply(kernels().sigmoid, NAN)));
}

TEST_P(VectorMathTest, TanhIsWithinItsBoundEverywhere) {
  const Exact exact = [](double x) { return std::tanh(x); };
  EXPECT_LE(WorstUlps(kernels().tanh, exact, FloatsBetween(0.0f, 3e38f)), 1.4);
  EXPECT_LE(WorstUlps(kernels().tanh, exact, FloatsBetween(-0.0f, -3e38f)), 1.4);
  EXPECT_EQ(Apply(kernels().tanh, INFINITY), 1.0f);
  EXPECT_EQ(Apply(kernels().tanh, -INFINITY), -1.0f);
  EXPECT_TRUE(std::isnan(Apply(kernels().tanh, NAN)));
}

// So that softmax, losses and GELU do not depend on the machine's vector length.
TEST(VectorMathBitsTest, EveryInstructionSetGivesTheSameBits) {
  const std::vector<float> x = FloatsBetween(-1e-6f, -200.0f);
  std::vector<float> first(x.size()), y(x.size());
  for (const auto member :
       {&VectorMathKernels::exp, &VectorMathKernels::sigmoid, &VectorMathKernels::tanh}) {
    (VectorMathKernelsFor(Isa::kAvx2).*member)(x.data(), first.data(), x.size());
    for (const Isa isa : AllInstructionSets()) {
      (VectorMathKernelsFor(isa).*member)(x.data(), y.data(), x.size());
      EXPECT_TRUE(y == first) << IsaName(isa);
    }
  }
}

// ---- GELU ---------------------------------------------------------------------------------------

class GeluTest : public testing::TestWithParam<Variant> {
 protected:
  const GeluKernels& kernels() { return GeluKernelsFor(GetParam().isa); }
  // 1,003 elements: full vectors of every set and a tail.
  Doubles Inputs() { return Rounded(UniformValues(1003, -9.0, 9.0, 1), GetParam().dtype); }

  template <typename T, typename Run>
  Doubles RunOn(const std::vector<Doubles>& inputs, const Run& run) {
    std::vector<std::vector<T>> stored;
    for (const Doubles& input : inputs) stored.push_back(Encode<T>(input));
    std::vector<T> y(inputs[0].size());
    run(stored, y.data(), static_cast<int64_t>(y.size()));
    return Decode(y);
  }
  Doubles Forward(const Doubles& x) {
    if (GetParam().dtype == DType::kF32) {
      return RunOn<float>({x}, [&](const auto& in, float* y, int64_t n) {
        kernels().forward_f32(in[0].data(), y, n);
      });
    }
    return RunOn<Bf16>({x}, [&](const auto& in, Bf16* y, int64_t n) {
      kernels().forward_bf16(in[0].data(), y, n);
    });
  }
  Doubles Backward(const Doubles& grad_y, const Doubles& x) {
    if (GetParam().dtype == DType::kF32) {
      return RunOn<float>({grad_y, x}, [&](const auto& in, float* y, int64_t n) {
        kernels().backward_f32(in[0].data(), in[1].data(), y, n);
      });
    }
    return RunOn<Bf16>({grad_y, x}, [&](const auto& in, Bf16* y, int64_t n) {
      kernels().backward_bf16(in[0].data(), in[1].data(), y, n);
    });
  }

 private:
  template <typename T>
  static std::vector<T> Encode(const Doubles& values) {
    std::vector<T> stored(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const float value = static_cast<float>(values[i]);
      if constexpr (sizeof(T) == 4) {
        stored[i] = value;
      } else {
        stored[i] = {static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16)};
      }
    }
    return stored;
  }
  static Doubles Decode(const std::vector<float>& values) { return {values.begin(), values.end()}; }
  static Doubles Decode(const std::vector<Bf16>& values) {
    Doubles result;
    for (const Bf16 value : values) {
      result.push_back(std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16));
    }
    return result;
  }
};
INSTANTIATE_TEST_SUITE_P(EveryVariant, GeluTest, testing::ValuesIn(AllVariants()), VariantName);

// gelu = x sigmoid(z): the roundings of z (three, relative) act on sigmoid as |z| (1 - sigmoid)
// times as much, and x sigmoid(z) |z| stays below 0.6 where that matters: 2^-22 absolute covers it;
// the rest is relative.
TEST_P(GeluTest, ForwardMatchesTheReference) {
  Doubles want = Inputs();
  for (double& x : want) x = reference::Gelu(x);
  ExpectNear(Forward(Inputs()), want, HalfUlp(GetParam().dtype) + 0x1p-21, 0x1p-22);
}

// The derivative is a sum of two terms of size up to 1.2 with a handful of roundings each.
TEST_P(GeluTest, BackwardMatchesTheReferenceAndFiniteDifferences) {
  const Doubles x = Inputs();
  const Doubles grad_y = Rounded(NormalValues(x.size(), 1.0, 2), GetParam().dtype);
  Doubles want(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double slope = reference::GeluDerivative(x[i]);
    const double h = 1e-5;
    EXPECT_NEAR(slope, (reference::Gelu(x[i] + h) - reference::Gelu(x[i] - h)) / (2 * h), 1e-9);
    want[i] = grad_y[i] * slope;
  }
  ExpectNear(Backward(grad_y, x), want, HalfUlp(GetParam().dtype) + 0x1p-20, 0x1p-20);
}

TEST_P(GeluTest, NaNStaysNaNAndFarTailsAreQuiet) {
  const Doubles y = Forward({NAN, 1e6, -1e6, 0.0});
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_NEAR(y[1], 1e6, 1e6 * 0x1p-7);
  EXPECT_NEAR(y[2], 0.0, 1e-30);
  EXPECT_EQ(y[3], 0.0);
  const Doubles g = Backward({1, 1, 1, 1}, {NAN, 1e6, -1e6, 0.0});
  EXPECT_TRUE(std::isnan(g[0]));
  EXPECT_NEAR(g[1], 1.0, 0x1p-7);
  EXPECT_NEAR(g[2], 0.0, 1e-15);
  EXPECT_EQ(g[3], 0.5);
}

}  // namespace
}  // namespace vitscale::cpu
