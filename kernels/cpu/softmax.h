// Rows of attention scores: softmax and its backward, in f32, between two tile matmuls.

#ifndef KERNELS_CPU_SOFTMAX_H_
#define KERNELS_CPU_SOFTMAX_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

// Scores and probabilities are [rows, columns], rows `stride` elements apart; a stride is a whole
// number of vectors. Probabilities and gradients beyond the last column are written as 0 up to the
// stride.
struct ScoreRows {
  int64_t rows = 0, columns = 0, stride = 0;
  float scale = 1;  // of the raw scores
};

struct SoftmaxKernels {
  // p = softmax(scale * s) row by row; `s` is overwritten. max and sum: [rows], the greatest raw
  // score and the sum of exp(scale * (s - max)).
  void (*forward_f32)(const ScoreRows& shape, float* s, float* p, float* max, float* sum);
  void (*forward_bf16)(const ScoreRows& shape, float* s, Bf16* p, float* max, float* sum);
  // p = exp(scale * s - log_sum_exp); delta[r] = sum over c of p * grad_p, before p is rounded;
  // grad_s = p * (grad_p - delta) * scale, whose rows so sum to 0. `s` is overwritten.
  void (*backward_f32)(const ScoreRows& shape, float* s, const float* grad_p,
                       const float* log_sum_exp, float* delta, float* p, float* grad_s);
  void (*backward_bf16)(const ScoreRows& shape, float* s, const float* grad_p,
                        const float* log_sum_exp, float* delta, Bf16* p, Bf16* grad_s);
};
const SoftmaxKernels& SoftmaxKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_SOFTMAX_H_
