// PoolAttention and its backward on CUDA against the CPU, every head dim and mix of dtypes.
//
// Bounds: each side is within its bound of the exact result, so the two are within twice that.

#include <string>
#include <vector>

#include "tests/cuda_on_cpu/attention_problem.h"
#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

// Head dims of 2 to 32 lanes a token, whole and not; token counts around what a block has in
// flight.
const AttentionProblem kProblems[] = {
    {1, 1, 1, 8},    {3, 7, 2, 16},   {2, 49, 3, 24},  {1, 64, 2, 32}, {2, 65, 1, 40},
    {1, 196, 2, 64}, {5, 7, 1, 64},   {1, 197, 1, 72}, {2, 17, 2, 88}, {1, 257, 1, 104},
    {2, 49, 1, 128}, {1, 33, 1, 136}, {1, 40, 2, 256}};

struct Kinds {
  DType compute, out;
};
constexpr Kinds kKinds[] = {
    {DType::kBf16, DType::kBf16}, {DType::kBf16, DType::kF32}, {DType::kF32, DType::kF32}};

struct Operands {
  AttentionProblem p;
  Doubles query, key_value;
  Operands(const AttentionProblem& problem, DType dtype, double deviation)
      : p(problem),
        query(Rounded(NormalValues(p.width(), deviation, 1), DType::kF32)),
        key_value(Rounded(NormalValues(p.rows() * 2 * p.width(), deviation, 2), dtype)) {}
  reference::Head<double> Head(const HeadPlace& place) const {
    return place.PoolHead(query, key_value);
  }
};

void ExpectForwardNearCpu(const AttentionProblem& p, Kinds kinds, double deviation,
                          bool keep_log_sum_exp) {
  const Operands operands(p, kinds.compute, deviation);
  OpPair pair(kinds.compute);
  PoolAttentionArgs args;
  args.query = pair.Input("query", DType::kF32, {1, p.width()}, operands.query);
  args.key_value =
      pair.Input("key_value", kinds.compute, {p.rows(), 2 * p.width()}, operands.key_value);
  args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
  args.out = pair.Output("out", kinds.out, {p.batch, p.width()});
  if (keep_log_sum_exp) {
    args.log_sum_exp = pair.Output("log_sum_exp", DType::kF32, {p.batch, p.heads});
  }
  ASSERT_THAT(pair.Run(args), IsOk());
  Doubles out_bound(p.batch * p.width()), log_sum_exp_bound;
  ForEachHead(p, [&](const HeadPlace& place) {
    const auto h = operands.Head(place);
    const auto want = reference::Attention(h);
    const ForwardErrors errors = ForwardErrorsOf(h, /*weight_rounding=*/0);
    for (int64_t c = 0; c < p.dim; ++c) {
      out_bound[place.image * p.width() + place.head * p.dim + c] =
          2 * (HalfUlp(kinds.out) * std::abs(want.out[c]) + errors.out);
    }
    log_sum_exp_bound.push_back(2 * (errors.log_sum_exp + 0x1p-22 * std::abs(want.log_sum_exp[0])));
  });
  pair.ExpectWithin(args.out, out_bound);
  if (keep_log_sum_exp) pair.ExpectWithin(args.log_sum_exp, log_sum_exp_bound);
}

TEST(PoolAttentionTest, ForwardMatchesTheCpuForEveryHeadDim) {
  for (const AttentionProblem& p : kProblems) {
    for (const Kinds& kinds : kKinds) {
      SCOPED_TRACE(Text(p));
      ExpectForwardNearCpu(p, kinds, 1.5, /*keep_log_sum_exp=*/true);
    }
  }
}

TEST(PoolAttentionTest, EvaluationNeedsNoLogSumExp) {
  ExpectForwardNearCpu({2, 49, 2, 64}, kKinds[0], 1.5, /*keep_log_sum_exp=*/false);
}

TEST(PoolAttentionTest, LargeScoresNeitherOverflowNorUnderflow) {
  ExpectForwardNearCpu({1, 300, 1, 16}, kKinds[0], 40, /*keep_log_sum_exp=*/true);
  ExpectForwardNearCpu({1, 300, 1, 16}, kKinds[2], 40, /*keep_log_sum_exp=*/true);
}

struct Backward {
  Operands operands;
  AttentionProblem p;
  Kinds kinds;
  Doubles grad_out;
  OpPair pair;
  PoolAttentionGradArgs args;
  Backward(const AttentionProblem& problem, Kinds of)
      : operands(problem, of.compute, 1.5),
        p(problem),
        kinds(of),
        grad_out(Rounded(NormalValues(p.batch * p.width(), 1, 3), of.out)),
        pair(of.compute) {
    Doubles out(p.batch * p.width()), log_sum_exp;
    ForEachHead(p, [&](const HeadPlace& place) {
      const auto want = reference::Attention(operands.Head(place));
      log_sum_exp.push_back(want.log_sum_exp[0]);
      std::copy(want.out.begin(), want.out.end(),
                out.begin() + place.image * p.width() + place.head * p.dim);
    });
    args.grad_out = pair.Input("grad_out", kinds.out, {p.batch, p.width()}, grad_out);
    args.query = pair.Input("query", DType::kF32, {1, p.width()}, operands.query);
    args.key_value =
        pair.Input("key_value", kinds.compute, {p.rows(), 2 * p.width()}, operands.key_value);
    args.out = pair.Input("out", kinds.out, {p.batch, p.width()}, out);
    args.log_sum_exp = pair.Input("log_sum_exp", DType::kF32, {p.batch, p.heads}, log_sum_exp);
    args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
    args.grad_query = pair.Output("grad_query", DType::kF32, {1, p.width()});
    args.grad_key_value = pair.Output("grad_key_value", kinds.compute, {p.rows(), 2 * p.width()});
  }
  void ExpectNearCpu() {
    Doubles bound(p.rows() * 2 * p.width()), query_bound(p.width(), 1e-12);
    ForEachHead(p, [&](const HeadPlace& place) {
      const auto begin = grad_out.begin() + place.image * p.width() + place.head * p.dim;
      const Doubles grad(begin, begin + p.dim);
      const auto want =
          reference::AttentionGrad(operands.Head(place), grad, HalfUlp(kinds.compute));
      place.Put(Twice(want.k_bound), 2, 0, bound);
      place.Put(Twice(want.v_bound), 2, 1, bound);
      // grad_query is f32: nothing is rounded to bf16 on its way.
      const auto exact = reference::AttentionGrad(operands.Head(place), grad, HalfUlp(DType::kF32));
      for (int64_t c = 0; c < p.dim; ++c) {
        // On top of each side's bound: the sum over images.
        query_bound[place.head * p.dim + c] +=
            2 * (exact.q_bound[c] + static_cast<double>(p.batch) * 0x1p-23 * std::abs(exact.q[c]));
      }
    });
    pair.ExpectWithin(args.grad_key_value, bound);
    pair.ExpectWithin(args.grad_query, query_bound);
  }
  static Doubles Twice(Doubles values) {
    for (double& value : values) value = 2 * value + 0x1p-100;
    return values;
  }
};

TEST(PoolAttentionTest, BackwardMatchesTheCpuAndSumsTheQueryOverImages) {
  for (const AttentionProblem& p : kProblems) {
    for (const Kinds& kinds : kKinds) {
      SCOPED_TRACE(Text(p));
      Backward b(p, kinds);
      ASSERT_THAT(b.pair.Run(b.args), IsOk());
      b.ExpectNearCpu();
    }
  }
}

TEST(PoolAttentionTest, BackwardOfManyImagesMatchesTheCpu) {
  Backward b({140, 3, 2, 32}, kKinds[0]);
  ASSERT_THAT(b.pair.Run(b.args), IsOk());
  b.ExpectNearCpu();
}

}  // namespace
}  // namespace vitscale
