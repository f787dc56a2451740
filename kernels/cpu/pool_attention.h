// One image of PoolAttention: one query per head over all tokens. Bound by reading keys and values.

#ifndef KERNELS_CPU_POOL_ATTENTION_H_
#define KERNELS_CPU_POOL_ATTENTION_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

struct PoolAttentionShape {
  int64_t tokens = 0, heads = 0, head_dim = 0;
  float scale = 1;
};

// key_value: [tokens, 2 * width]. scratch: 2 * tokens floats. query, out and grad_out: [width],
// f32.
struct PoolAttentionKernels {
  // max and sum: [heads], the greatest scaled score and the sum of exp(score - max).
  void (*forward_f32)(const PoolAttentionShape& shape, const float* query, const float* key_value,
                      float* scratch, float* out, float* max, float* sum);
  void (*forward_bf16)(const PoolAttentionShape& shape, const float* query, const Bf16* key_value,
                       float* scratch, float* out, float* max, float* sum);
  // grad_query is overwritten: this image's share.
  void (*backward_f32)(const PoolAttentionShape& shape, const float* query, const float* key_value,
                       const float* grad_out, const float* log_sum_exp, float* scratch,
                       float* grad_query, float* grad_key_value);
  void (*backward_bf16)(const PoolAttentionShape& shape, const float* query, const Bf16* key_value,
                        const float* grad_out, const float* log_sum_exp, float* scratch,
                        float* grad_query, Bf16* grad_key_value);
};
const PoolAttentionKernels& PoolAttentionKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_POOL_ATTENTION_H_
