// What is tried beside our own kernel: itself, which agrees, and what a library may get wrong.

#include "kernels/cuda/cudnn/attention_trial.h"

#include <cuda_runtime_api.h>

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cudnn/cudnn_attention.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr AttentionSize kSize{9, 20, 2, 32};
constexpr int64_t kL2Bytes = 4096;

AttentionForward Own(const AttentionSize& size) { return MmaAttention(size).value(); }

absl::StatusOr<std::string> Disagreement(const AttentionForward& other) {
  VITSCALE_ASSIGN_OR_RETURN(AttentionTrial trial, AttentionTrial::Create(kSize, kL2Bytes));
  return trial.Disagreement(Own(kSize), other);
}
std::string Against(const AttentionForward& other) {
  const absl::StatusOr<std::string> disagreement = Disagreement(other);
  EXPECT_THAT(disagreement, IsOk());
  return disagreement.value_or("an error");
}
// Our own, then `spoil` on its results.
std::string AgainstSpoiled(std::function<void(const AttentionOperands&, cudaStream_t)> spoil) {
  return Against([=](const AttentionOperands& to, cudaStream_t stream) {
    VITSCALE_RETURN_IF_ERROR(Own(kSize)(to, stream));
    spoil(to, stream);
    return absl::OkStatus();
  });
}

TEST(AttentionTrialTest, OurOwnAgreesWithItself) { EXPECT_EQ(Against(Own(kSize)), ""); }

TEST(AttentionTrialTest, AnImageThatIsNotWrittenIsFound) {
  EXPECT_THAT(Against(Own({kSize.batch - 1, kSize.tokens, kSize.heads, kSize.head_dim})),
              AllOf(StartsWith("out of image 8, token 0, column 0 is nan, by our own "),
                    HasSubstr(", want within 0.0")));
}

TEST(AttentionTrialTest, AnotherGroupingOfTheSameMemoryIsFound) {
  EXPECT_THAT(Against(Own({2 * kSize.batch, kSize.tokens / 2, kSize.heads, kSize.head_dim})),
              StartsWith("out of image 0, token "));
}

TEST(AttentionTrialTest, StatisticsThatAreNotWrittenAreFound) {
  EXPECT_THAT(Against([](AttentionOperands to, cudaStream_t stream) {
                to.log_sum_exp = nullptr;
                return Own(kSize)(to, stream);
              }),
              StartsWith("log_sum_exp of image 0, head 0, token 0 is nan"));
}

TEST(AttentionTrialTest, OneWrongElementIsFoundWhereItIs) {
  EXPECT_THAT(AgainstSpoiled([](const AttentionOperands& to, cudaStream_t stream) {
                // 0x7e7e is 8.4e37 in bf16. The element: image 8, token 19, column 63.
                auto* last =
                    static_cast<std::byte*>(to.out) + 2 * (kSize.rows() * kSize.width() - 1);
                (void)cudaMemsetAsync(last, 0x7e, 2, stream);
              }),
              StartsWith("out of image 8, token 19, column 63 is 8.4"));
}

TEST(AttentionTrialTest, AnErrorOfTheOtherComesOut) {
  EXPECT_THAT(Disagreement([](const AttentionOperands&, cudaStream_t) {
                return absl::InternalError("run attention: CUDNN_STATUS_EXECUTION_FAILED");
              }),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("CUDNN_STATUS_EXECUTION_FAILED")));
}

TEST(AttentionTrialTest, WithoutRoomItIsResourceExhausted) {
  cuda_on_cpu::SetDeviceMemory(1 << 10);
  EXPECT_THAT(AttentionTrial::Create(kSize, kL2Bytes),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("operands to compare attention on")));
  cuda_on_cpu::SetDeviceMemory(int64_t{80} << 30);
}

TEST(AttentionTrialTest, AnImplementationIsTimedOverFiveRunsAfterOne) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(AttentionTrial trial, AttentionTrial::Create(kSize, kL2Bytes));
  int runs = 0;
  const auto seconds = trial.MedianSeconds([&](const AttentionOperands& to, cudaStream_t stream) {
    ++runs;
    return Own(kSize)(to, stream);
  });
  EXPECT_THAT(seconds, IsOk());
  EXPECT_EQ(runs, 6);
}

// The values of the bounds by hand, head dim 64 and 196 tokens: a score is off by 72 * 2^-24 * 64 *
// 4 / 8 = 1.373e-4 at most.
TEST(AttentionTrialTest, BoundsAreThoseOfTheArithmetic) {
  const AttentionBounds bounds = BoundsOfAttention({1, 196, 1, 64});
  EXPECT_NEAR(bounds.out_absolute, 2 * 2 * (2 * 1.373e-4 + 0x1p-8 + 424 * 0x1p-24), 1e-6);
  EXPECT_EQ(bounds.out_relative, 0x1p-7);
  EXPECT_NEAR(bounds.log_sum_exp_absolute, 2 * (1.373e-4 + 204 * 0x1p-22), 1e-7);
}

}  // namespace
}  // namespace vitscale::cuda
