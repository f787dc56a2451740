// Self-attention forward on both backends: what tests of its variants share.

#ifndef TESTS_CUDA_ON_CPU_SELF_ATTENTION_FORWARD_H_
#define TESTS_CUDA_ON_CPU_SELF_ATTENTION_FORWARD_H_

#include <cmath>

#include "tests/cuda_on_cpu/attention_problem.h"
#include "tests/cuda_on_cpu/op_pair.h"

namespace vitscale {

// `keep`: with log_sum_exp, as training wants it.
struct SelfAttentionForward {
  AttentionProblem p;
  Doubles qkv;
  OpPair pair;
  SelfAttentionArgs args;
  SelfAttentionForward(const AttentionProblem& problem, DType dtype, double deviation,
                       bool keep = true)
      : p(problem),
        qkv(Rounded(NormalValues(p.rows() * 3 * p.width(), deviation, 1), dtype)),
        pair(dtype) {
    args.qkv = pair.Input("qkv", dtype, {p.rows(), 3 * p.width()}, qkv);
    args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
    args.out = pair.Output("out", dtype, {p.rows(), p.width()});
    if (!keep) return;
    args.log_sum_exp = pair.Output("log_sum_exp", DType::kF32, {p.batch, p.heads, p.tokens});
  }
  void ExpectNearCpu() {
    const double u = HalfUlp(args.out.dtype);
    Doubles out_bound(p.rows() * p.width()), log_sum_exp_bound;
    ForEachHead(p, [&](const HeadPlace& place) {
      const auto h = place.SelfHead(qkv);
      const auto want = reference::Attention(h);
      const ForwardErrors errors = ForwardErrorsOf(h, u);
      Doubles bound = want.out;
      for (double& value : bound) value = 2 * (u * std::abs(value) + errors.out);
      place.Put(bound, 1, 0, out_bound);
      for (const double value : want.log_sum_exp) {
        log_sum_exp_bound.push_back(2 * (errors.log_sum_exp + 0x1p-22 * std::abs(value)));
      }
    });
    pair.ExpectWithin(args.out, out_bound);
    if (args.log_sum_exp.present()) pair.ExpectWithin(args.log_sum_exp, log_sum_exp_bound);
  }
};

}  // namespace vitscale

#endif  // TESTS_CUDA_ON_CPU_SELF_ATTENTION_FORWARD_H_
