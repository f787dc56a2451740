// Fill, Copy, Cast, PolyakAverage and Digest.

#include <cmath>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

class ElementwiseTest : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(EveryVariant, ElementwiseTest, testing::ValuesIn(AllVariants()),
                         VariantName);

TEST_P(ElementwiseTest, FillWritesTheValueInEveryDType) {
  for (const DType dtype :
       {DType::kU8, DType::kBf16, DType::kF32, DType::kF64, DType::kI32, DType::kI64}) {
    OpBench bench(GetParam(), 2);
    const TensorView y = bench.Output("y", dtype, {3, 17011});
    ASSERT_THAT(bench.Run(FillArgs{y, 3.0}), IsOk());
    EXPECT_EQ(bench.Values(y), Doubles(3 * 17011, 3.0)) << DTypeName(dtype);
  }
}

TEST_P(ElementwiseTest, CopyKeepsEveryBit) {
  OpBench bench(GetParam(), 2);
  const Doubles values = NormalValues(40001, 1.0, 1);
  const TensorView x = bench.Input("x", DType::kF64, {40001}, values);
  const TensorView y = bench.Output("y", DType::kF64, {40001});
  ASSERT_THAT(bench.Run(CopyArgs{x, y}), IsOk());
  EXPECT_EQ(bench.Values(y), values);
}

TEST_P(ElementwiseTest, CastRoundsToNearestEvenAndBackIsExact) {
  // 1 + 2^-8 lies between 1 and 1 + 2^-7: the even one is 1; 1 + 3 * 2^-8 goes up to 1 + 2^-6.
  Doubles values = {1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-8 + 0x1p-20, -0.0, 3.39e38, INFINITY};
  const Doubles want = {1, 1 + 0x1p-6, 1 + 0x1p-7, -0.0, 0x1.fep+127, INFINITY};
  const Doubles more = NormalValues(1001, 100.0, 2);
  values.insert(values.end(), more.begin(), more.end());
  const int64_t n = static_cast<int64_t>(values.size());
  OpBench bench(GetParam());
  const TensorView x = bench.Input("x", DType::kF32, {1, n}, values);
  const TensorView y = bench.Output("y", DType::kBf16, {1, n});
  const TensorView back = bench.Output("back", DType::kF32, {1, n});
  Program program;
  program.Add(CastArgs{x, y});
  program.Add(CastArgs{y, back});
  ASSERT_THAT(bench.RunProgram(std::move(program)), IsOk());
  const Doubles rounded = bench.Values(y);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(rounded[i], want[i]) << i;
  EXPECT_EQ(rounded, Rounded(values, DType::kBf16));
  EXPECT_EQ(bench.Values(back), rounded);
}

TEST_P(ElementwiseTest, CastKeepsNaN) {
  OpBench bench(GetParam());
  const TensorView x = bench.Input("x", DType::kF32, {1, 3}, {1.0, NAN, 2.0});
  const TensorView y = bench.Output("y", DType::kBf16, {1, 3});
  ASSERT_THAT(bench.Run(CastArgs{x, y}), IsOk());
  EXPECT_TRUE(std::isnan(bench.Values(y)[1]));
}

TEST_P(ElementwiseTest, PolyakAverageIsTheConvexSumAndObeysTheGate) {
  const int64_t n = 70001;
  const Doubles parameters = Rounded(NormalValues(n, 1.0, 1), DType::kF32);
  const Doubles average = Rounded(NormalValues(n, 1.0, 2), DType::kF32);
  for (const int apply : {0, 1}) {
    OpBench bench(GetParam(), 2);
    const TensorView p = bench.Input("p", DType::kF32, {n}, parameters, Arena::kParameters);
    const TensorView a = bench.Input("a", DType::kF32, {n}, average, Arena::kAverage);
    StepScalars scalars;
    scalars.apply = apply;
    ASSERT_THAT(bench.Run(PolyakAverageArgs{p, a, 0.99f}, scalars), IsOk());
    Doubles want = average;
    for (int64_t i = 0; apply == 1 && i < n; ++i) {
      want[i] = 0.99f * average[i] + (1.0f - 0.99f) * parameters[i];
    }
    // Three roundings, of values below 6.
    const double error = apply == 1 ? 0x1p-22 : 0.0;
    ExpectNear(bench.Values(a), want, error, error);
  }
}

// ---- digest -------------------------------------------------------------------------------------

std::vector<std::byte> DigestOf(const std::vector<Doubles>& inputs, int threads = 1,
                                cpu::Isa isa = cpu::Isa::kAvx2) {
  OpBench bench({isa, DType::kF32}, threads);
  DigestArgs args;
  for (const Doubles& input : inputs) {
    args.inputs.push_back(
        bench.Input("x", DType::kU8, {static_cast<int64_t>(input.size())}, input));
  }
  args.digest = bench.Output("digest", DType::kI64, {1}, Arena::kStatistics);
  EXPECT_THAT(bench.Run(args), IsOk());
  return bench.Bytes(args.digest);
}
Doubles Bytes(int64_t count) {
  Doubles bytes = UniformValues(count, 0, 256, 5);
  for (double& b : bytes) b = std::floor(b);
  return bytes;
}

TEST(DigestTest, IsTheSameForAnyThreadCountAndInstructionSet) {
  const std::vector<Doubles> inputs = {Bytes(200003), Bytes(5), Bytes(65536)};
  ExpectSameBitsForAnyThreads([&](int threads) { return DigestOf(inputs, threads); });
  for (const cpu::Isa isa : AllInstructionSets()) {
    EXPECT_TRUE(DigestOf(inputs, 1, isa) == DigestOf(inputs)) << IsaName(isa);
  }
}

TEST(DigestTest, IsAFixedFunctionOfTheBytes) {
  // Computed by hand from the definition in digest.cc. All replicas of a job must agree on it.
  uint64_t digest;
  std::memcpy(&digest, DigestOf({{1, 2, 3, 4, 5, 6, 7, 8, 9}}).data(), sizeof(digest));
  EXPECT_EQ(digest, 0x3358817a5acba7aau) << std::hex << digest;
}

TEST(DigestTest, ChangesWithEveryByteOrderAndBoundary) {
  const Doubles base = Bytes(70000);
  std::set<std::vector<std::byte>> seen = {DigestOf({base})};
  for (const int64_t at : {0, 7, 8, 65535, 65536, 69999}) {
    Doubles moved = base;
    moved[at] = 255 - moved[at];
    EXPECT_TRUE(seen.insert(DigestOf({moved})).second) << "byte " << at;
  }
  Doubles swapped = base;  // two words of one block; then two blocks' worth
  std::swap_ranges(swapped.begin(), swapped.begin() + 8, swapped.begin() + 8);
  EXPECT_TRUE(seen.insert(DigestOf({swapped})).second);
  const Doubles head(base.begin(), base.begin() + 30000), tail(base.begin() + 30000, base.end());
  EXPECT_TRUE(seen.insert(DigestOf({head, tail})).second);
  EXPECT_TRUE(seen.insert(DigestOf({tail, head})).second);
  Doubles longer = base;
  longer.push_back(0);
  EXPECT_TRUE(seen.insert(DigestOf({longer})).second);
}

}  // namespace
}  // namespace vitscale
