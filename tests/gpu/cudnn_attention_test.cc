// cuDNN's attention on a card, against the CPU with the bounds of our own. Where there is no cuDNN
// or an old one it is skipped: nothing needs it.

#include <cstdlib>
#include <string>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/cuda_on_cpu/self_attention_forward.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::StartsWith;

// Head dims and token counts of the model family, and a batch beyond what the trial repeats.
const AttentionProblem kProblems[] = {{2, 49, 3, 16},  {2, 197, 3, 64}, {9, 196, 2, 64},
                                      {1, 257, 2, 88}, {2, 65, 2, 104}, {1, 196, 1, 128}};

class CudnnAttentionTest : public testing::Test {
 protected:
  void SetUp() override {
    setenv("VITSCALE_CUDNN", "on", 1);
    SelfAttentionForward f({1, 16, 1, 64}, DType::kBf16, 1);
    ASSERT_THAT(f.pair.Run(f.args), IsOk());
    const std::string variant = f.pair.variant();  // what opened_library.h says of either
    if (absl::StrContains(variant, "cuDNN cannot be opened") ||
        absl::EndsWith(variant, " or later")) {
      GTEST_SKIP() << variant;
    }
  }
  void TearDown() override { setenv("VITSCALE_CUDNN", "off", 1); }
};

TEST_F(CudnnAttentionTest, MatchesTheCpuAsOurOwnDoes) {
  for (const AttentionProblem& p : kProblems) {
    SCOPED_TRACE(Text(p));
    SelfAttentionForward f(p, DType::kBf16, 1.5);
    ASSERT_THAT(f.pair.Run(f.args), IsOk());
    EXPECT_THAT(f.pair.variant(), StartsWith("cuDNN ")) << "not chosen";
    f.ExpectNearCpu();
  }
}

TEST_F(CudnnAttentionTest, EvaluationHasTheBitsOfTraining) {
  const AttentionProblem p{2, 196, 2, 64};
  SelfAttentionForward with(p, DType::kBf16, 1.5), without(p, DType::kBf16, 1.5, /*keep=*/false);
  ASSERT_THAT(with.pair.Run(with.args), IsOk());
  ASSERT_THAT(without.pair.Run(without.args), IsOk());
  EXPECT_EQ(with.pair.Cuda(with.args.out), without.pair.Cuda(without.args.out));
}

TEST_F(CudnnAttentionTest, LargeScoresNeitherOverflowNorUnderflow) {
  SelfAttentionForward f({1, 130, 1, 64}, DType::kBf16, 20);
  ASSERT_THAT(f.pair.Run(f.args), IsOk());
  f.ExpectNearCpu();
}

// By default the faster one runs, and the other's time is in the variant.
TEST_F(CudnnAttentionTest, TheVariantSaysWhatBothTake) {
  setenv("VITSCALE_CUDNN", "auto", 1);
  SelfAttentionForward f({8, 196, 3, 64}, DType::kBf16, 1);
  ASSERT_THAT(f.pair.Run(f.args), IsOk());
  EXPECT_THAT(f.pair.variant(), testing::ContainsRegex("[0-9.]+ us, (our own|this) [0-9.]+ us"));
  f.ExpectNearCpu();
}

}  // namespace
}  // namespace vitscale
