// SelfAttention and its backward on CUDA against the CPU, every variant and head dim.
//
// Bounds: each side is within its bound of the exact result, so the two are within twice that.

#include <string>
#include <vector>

#include "kernels/cuda/attention_choice.h"
#include "tests/cuda_on_cpu/attention_problem.h"
#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/cuda_on_cpu/self_attention_forward.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

// Every head dim of the tensor-core kernels and two beyond; token counts around the tiles (16, 32,
// 64, 128 rows) and those of the model family.
const AttentionProblem kProblems[] = {
    {2, 7, 2, 8},    {3, 49, 3, 16},  {1, 65, 2, 24},  {2, 64, 1, 32},   {1, 197, 1, 32},
    {1, 33, 3, 40},  {2, 49, 1, 48},  {1, 129, 1, 56}, {1, 1, 1, 64},    {3, 7, 2, 64},
    {1, 196, 2, 64}, {1, 65, 1, 72},  {2, 17, 2, 80},  {1, 197, 1, 80},  {1, 64, 1, 88},
    {1, 130, 2, 96}, {1, 49, 1, 104}, {1, 33, 2, 112}, {1, 196, 1, 112}, {2, 1, 1, 120},
    {1, 65, 2, 128}, {1, 197, 1, 128}};
const AttentionProblem kSimpleProblems[] = {{2, 7, 2, 136}, {1, 65, 1, 256}};
const AttentionProblem kF32Problems[] = {{3, 1, 1, 8},   {2, 7, 2, 16},   {1, 49, 3, 64},
                                         {1, 65, 1, 72}, {1, 33, 1, 136}, {1, 40, 1, 256}};

struct Case {
  AttentionProblem p;
  DType dtype;
  std::string variant;  // what the launcher must say
};
std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const AttentionProblem& p : kProblems) {
    const std::string padded = absl::StrCat("mma, head dim ", p.dim, " padded to ", p.dim + 8);
    cases.push_back({p, DType::kBf16, p.dim % 16 == 0 ? "mma" : padded});
  }
  for (const AttentionProblem& p : kSimpleProblems) {
    cases.push_back({p, DType::kBf16, absl::StrCat("simple: head dim ", p.dim, " is over 128")});
  }
  for (const AttentionProblem& p : kF32Problems) cases.push_back({p, DType::kF32, "simple: f32"});
  return cases;
}

// ---- forward ------------------------------------------------------------------------------------

using Forward = SelfAttentionForward;

TEST(SelfAttentionTest, ForwardMatchesTheCpuForEveryVariantAndHeadDim) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(Text(c.p));
    Forward f(c.p, c.dtype, 1.5);
    ASSERT_THAT(f.pair.Run(f.args), IsOk());
    EXPECT_EQ(f.pair.variant(), c.variant);
    f.ExpectNearCpu();
  }
}

TEST(SelfAttentionTest, EvaluationNeedsNoLogSumExp) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    const AttentionProblem p{2, 49, 2, 32};
    Forward with(p, dtype, 1.5), without(p, dtype, 1.5, /*keep=*/false);
    ASSERT_THAT(with.pair.Run(with.args), IsOk());
    ASSERT_THAT(without.pair.Run(without.args), IsOk());
    EXPECT_EQ(with.pair.Cuda(with.args.out), without.pair.Cuda(without.args.out));
  }
}

// Scores of several thousand: exp of them would overflow, exp of minus them underflows.
TEST(SelfAttentionTest, LargeScoresNeitherOverflowNorUnderflow) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    Forward f({1, 130, 1, 16}, dtype, 40);
    ASSERT_THAT(f.pair.Run(f.args), IsOk());
    f.ExpectNearCpu();
  }
}

// ---- backward -----------------------------------------------------------------------------------

struct Backward {
  AttentionProblem p;
  Doubles qkv, grad_out;
  OpPair pair;
  SelfAttentionGradArgs args;
  // `out` is off by a factor out_factor.
  Backward(const AttentionProblem& problem, DType dtype, double deviation, double out_factor = 1)
      : p(problem),
        qkv(Rounded(NormalValues(p.rows() * 3 * p.width(), deviation, 1), dtype)),
        grad_out(Rounded(NormalValues(p.rows() * p.width(), 1, 2), dtype)),
        pair(dtype) {
    Doubles out(p.rows() * p.width()), log_sum_exp;
    ForEachHead(p, [&](const HeadPlace& place) {
      auto want = reference::Attention(place.SelfHead(qkv));
      for (double& value : want.out) value *= out_factor;
      place.Put(want.out, 1, 0, out);
      log_sum_exp.insert(log_sum_exp.end(), want.log_sum_exp.begin(), want.log_sum_exp.end());
    });
    args.grad_out = pair.Input("grad_out", dtype, {p.rows(), p.width()}, grad_out);
    args.qkv = pair.Input("qkv", dtype, {p.rows(), 3 * p.width()}, qkv);
    args.out = pair.Input("out", dtype, {p.rows(), p.width()}, out);
    args.log_sum_exp =
        pair.Input("log_sum_exp", DType::kF32, {p.batch, p.heads, p.tokens}, log_sum_exp);
    args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
    args.grad_qkv = pair.Output("grad_qkv", dtype, {p.rows(), 3 * p.width()});
  }
  // The first part to compare: 0 for q, k and v, 1 for k and v.
  void ExpectNearCpu(int first_part = 0) {
    Doubles bound(p.rows() * 3 * p.width(), 1e30);
    ForEachHead(p, [&](const HeadPlace& place) {
      const auto want = reference::AttentionGrad(place.SelfHead(qkv), place.Get(grad_out, 1, 0),
                                                 HalfUlp(args.grad_qkv.dtype));
      const Doubles* bounds[] = {&want.q_bound, &want.k_bound, &want.v_bound};
      for (int part = first_part; part < 3; ++part) {
        Doubles twice = *bounds[part];
        for (double& value : twice) value = 2 * value + 0x1p-100;
        place.Put(twice, 3, part, bound);
      }
    });
    pair.ExpectWithin(args.grad_qkv, bound);
  }
};

TEST(SelfAttentionTest, BackwardMatchesTheCpuForEveryVariantAndHeadDim) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(Text(c.p));
    Backward b(c.p, c.dtype, 1.2);
    ASSERT_THAT(b.pair.Run(b.args), IsOk());
    EXPECT_EQ(b.pair.variant(), c.variant);
    b.ExpectNearCpu();
  }
}

TEST(SelfAttentionTest, BackwardOfLargeScoresIsFinite) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    Backward b({1, 130, 1, 16}, dtype, 20);
    ASSERT_THAT(b.pair.Run(b.args), IsOk());
    b.ExpectNearCpu();
  }
}

// Rows of dS sum to 0 whatever `out` was rounded to (here: off by an eighth), so that gradients of
// key biases vanish.
TEST(SelfAttentionTest, GradientsOfKeysAndValuesDoNotDependOnTheRoundingOfOut) {
  for (const int64_t dim : {32, 64, 104}) {
    Backward b({1, 130, 2, dim}, DType::kBf16, 1.2, /*out_factor=*/1.125);
    ASSERT_THAT(b.pair.Run(b.args), IsOk());
    b.ExpectNearCpu(/*first_part=*/1);
  }
}

TEST(SelfAttentionTest, ADeviceWithTooLittleSharedMemoryTakesTheSimpleVariantAndSaysWhy) {
  EXPECT_EQ(cuda::WhySimpleAttention(DType::kBf16, 128, 104448, 101376),
            "head dim 128 needs 104448 bytes of shared memory, the device has 101376");
  EXPECT_EQ(cuda::WhySimpleAttention(DType::kBf16, 128, 104448, 104448), "");
}

}  // namespace
}  // namespace vitscale
