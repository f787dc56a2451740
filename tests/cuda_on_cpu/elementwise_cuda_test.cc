// Fill, Copy, Cast, PolyakAverage and Digest on CUDA: the bits of the CPU.

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

constexpr DType kEveryDType[] = {DType::kU8,  DType::kBf16, DType::kF32,
                                 DType::kF64, DType::kI32,  DType::kI64};
constexpr int64_t kCounts[] = {1, 2, 5, 7, 16, 2048, 2049, 4103};

TEST(FillCudaTest, WritesTheValueInEveryDTypeAndSize) {
  OpPair pair(DType::kF32);
  Program program;
  std::vector<std::pair<TensorView, double>> filled;
  const auto add = [&](DType dtype, int64_t count, double value) {
    const TensorView y = pair.Output(absl::StrCat(DTypeName(dtype), " ", count), dtype, {count});
    program.Add(FillArgs{y, value});
    filled.push_back({y, value});
  };
  for (const DType dtype : kEveryDType) {
    for (const int64_t count : kCounts) add(dtype, count, 93.0);
    if (dtype != DType::kU8) add(dtype, 35, -2.71);
  }
  ASSERT_THAT(pair.RunProgram(program), IsOk());
  for (const auto& [view, value] : filled) {
    pair.ExpectSameBits(view);
    EXPECT_NEAR(pair.Cuda(view).back(), value, 1.0) << view.name;  // integers are cut off
  }
}

TEST(CopyCudaTest, KeepsEveryBitInEveryDTypeAndSize) {
  OpPair pair(DType::kF32);
  Program program;
  std::vector<CopyArgs> copies;
  for (const DType dtype : kEveryDType) {
    for (const int64_t count : kCounts) {
      const std::string name = absl::StrCat(DTypeName(dtype), " ", count);
      copies.push_back({pair.Input(name, dtype, {count}, UniformValues(count, 0, 200, 1)),
                        pair.Output(name, dtype, {count})});
      program.Add(copies.back());
    }
  }
  ASSERT_THAT(pair.RunProgram(program), IsOk());
  for (const CopyArgs& copy : copies)
    EXPECT_EQ(pair.Cuda(copy.y), pair.Cuda(copy.x)) << copy.x.name;
}

TEST(CastCudaTest, RoundsToNearestEvenAndBackIsExact) {
  for (const int64_t count : kCounts) {
    Doubles values = {1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-8 + 0x1p-20, -0.0, 3.39e38, INFINITY};
    const Doubles more = NormalValues(count, 100.0, 2);
    values.insert(values.end(), more.begin(), more.end());
    const auto n = static_cast<int64_t>(values.size());
    OpPair pair(DType::kBf16);
    const TensorView x = pair.Input("x", DType::kF32, {1, n}, values);
    const TensorView y = pair.Output("y", DType::kBf16, {1, n});
    const TensorView back = pair.Output("back", DType::kF32, {1, n});
    const TensorView same = pair.Output("same", DType::kF32, {1, n});
    Program program;
    program.Add(CastArgs{x, y});
    program.Add(CastArgs{y, back});
    program.Add(CastArgs{x, same});
    ASSERT_THAT(pair.RunProgram(program), IsOk());
    for (const TensorView& view : {y, back, same}) pair.ExpectSameBits(view);
  }
}

TEST(CastCudaTest, KeepsNaN) {
  OpPair pair(DType::kBf16);
  const TensorView x = pair.Input("x", DType::kF32, {1, 3}, {1.0, NAN, 2.0});
  const TensorView y = pair.Output("y", DType::kBf16, {1, 3});
  ASSERT_THAT(pair.Run(CastArgs{x, y}), IsOk());
  EXPECT_TRUE(std::isnan(pair.Cuda(y)[1]));
  EXPECT_EQ(pair.Cuda(y)[2], 2.0);
}

TEST(PolyakAverageCudaTest, IsTheBitsOfTheCpuAndObeysTheGate) {
  for (const int64_t count : kCounts) {
    for (const int apply : {0, 1}) {
      OpPair pair(DType::kF32);
      const TensorView parameters = pair.Input("parameters", DType::kF32, {count},
                                               NormalValues(count, 1.0, 1), Arena::kParameters);
      const Doubles before = Rounded(NormalValues(count, 1.0, 2), DType::kF32);
      const TensorView average =
          pair.Input("average", DType::kF32, {count}, before, Arena::kAverage);
      StepScalars scalars;
      scalars.apply = apply;
      ASSERT_THAT(pair.Run(PolyakAverageArgs{parameters, average, 0.99f}, scalars), IsOk());
      pair.ExpectSameBits(average);
      EXPECT_EQ(pair.Cuda(average) == before, apply == 0);
    }
  }
}

// ---- Digest -------------------------------------------------------------------------------------

// One digest for every list of sizes in bytes.
void ExpectDigestsOfTheCpu(const std::vector<std::vector<int64_t>>& lists) {
  OpPair pair(DType::kF32);
  Program program;
  std::vector<TensorView> digests;
  for (const std::vector<int64_t>& sizes : lists) {
    DigestArgs args;
    for (const int64_t size : sizes) {
      args.inputs.push_back(
          pair.Input(absl::StrCat(size, " bytes"), DType::kU8, {size},
                     Rounded(UniformValues(size, 0, 255.99, args.inputs.size()), DType::kU8)));
    }
    args.digest = pair.Output("digest", DType::kI64, {1}, Arena::kStatistics);
    digests.push_back(args.digest);
    program.Add(std::move(args));
  }
  ASSERT_THAT(pair.RunProgram(program), IsOk());
  for (const TensorView& digest : digests) pair.ExpectSameBits(digest);
}

TEST(DigestCudaTest, IsTheDigestOfTheCpuForEverySize) {
  constexpr int64_t kBlock = 64 * 1024;
  ExpectDigestsOfTheCpu({{1}, {7}, {8}, {15}, {16}, {24}, {31}, {5000}});
  ExpectDigestsOfTheCpu({{kBlock - 1}, {kBlock}, {kBlock + 9}, {3 * kBlock + 123}});
}

TEST(DigestCudaTest, ManyInputsAreFoldedInOrder) {
  ExpectDigestsOfTheCpu(
      {{3, 70000, 64, 1, 200, 131072, 9}, std::vector<int64_t>(45, 8)});  // more slots than lanes
  ExpectDigestsOfTheCpu({{}});
}

}  // namespace
}  // namespace vitscale
