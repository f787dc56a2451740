#include "kernels/cpu/pool_attention.h"
#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/vector_math.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

constexpr float kLowest = -3.0e38f;

template <typename A, typename B>
float Dot(const A* a, const B* b, int64_t count) {
  RowSums sums;
  ForVectors(count, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
    sums.part[slot] = MulAdd(Load(a + c, lanes), Load(b + c, lanes), sums.part[slot]);
  });
  return ReduceAdd(sums);
}

// p = softmax(s) over the tokens.
void Softmax(const float* s, int64_t tokens, float* p, float* max, float* sum) {
  F32 top = Set(kLowest);
  ForVectors(tokens, [&](int64_t t, auto lanes, int) VITSCALE_BODY {
    top = Max(top, Keep(Load(s + t, lanes), lanes, Set(kLowest)));
  });
  *max = ReduceMax(top);
  RowSums sums;
  ForVectors(tokens, [&](int64_t t, auto lanes, int slot) VITSCALE_BODY {
    const F32 e = Keep(Exp(Load(s + t, lanes) - Set(*max)), lanes, Zero());
    sums.part[slot] = sums.part[slot] + e;
    Store(p + t, e, lanes);
  });
  *sum = ReduceAdd(sums);
  const F32 inverse = Set(1.0f / *sum);
  ForVectors(tokens, [&](int64_t t, auto lanes, int)
                         VITSCALE_BODY { Store(p + t, Load(p + t, lanes) * inverse, lanes); });
}

template <typename T>
void Forward(const PoolAttentionShape& shape, const float* query, const T* key_value,
             float* scratch, float* out, float* max, float* sum) {
  const int64_t dim = shape.head_dim, width = shape.heads * dim, tokens = shape.tokens;
  float *s = scratch, *p = scratch + tokens;
  for (int64_t h = 0; h < shape.heads; ++h) {
    const T* key = key_value + h * dim;
    const T* value = key + width;
    for (int64_t t = 0; t < tokens; ++t) {
      s[t] = Dot(query + h * dim, key + t * 2 * width, dim) * shape.scale;
    }
    Softmax(s, tokens, p, max + h, sum + h);
    ForVectors(dim, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
      F32 total = Zero();
      for (int64_t t = 0; t < tokens; ++t) {
        total = MulAdd(Set(p[t]), Load(value + t * 2 * width + c, lanes), total);
      }
      Store(out + h * dim + c, total, lanes);
    });
  }
}

// scores -> p in `s`, gradient of the raw scores in `d` (which held that of p). delta = sum(p * d),
// not grad_out * out, as in self_attention.cc.
void SoftmaxGrad(float* s, float* d, int64_t tokens, float log_sum_exp, float scale) {
  RowSums sums;
  ForVectors(tokens, [&](int64_t t, auto lanes, int slot) VITSCALE_BODY {
    const F32 p = Keep(Exp(Load(s + t, lanes) - Set(log_sum_exp)), lanes, Zero());
    sums.part[slot] = MulAdd(p, Load(d + t, lanes), sums.part[slot]);
    Store(s + t, p, lanes);
  });
  const F32 delta = Set(ReduceAdd(sums));
  ForVectors(tokens, [&](int64_t t, auto lanes, int) VITSCALE_BODY {
    Store(d + t, Load(s + t, lanes) * (Load(d + t, lanes) - delta) * Set(scale), lanes);
  });
}

template <typename T>
void Backward(const PoolAttentionShape& shape, const float* query, const T* key_value,
              const float* grad_out, const float* log_sum_exp, float* scratch, float* grad_query,
              T* grad_key_value) {
  const int64_t dim = shape.head_dim, width = shape.heads * dim, tokens = shape.tokens;
  float *s = scratch, *d = scratch + tokens;
  for (int64_t h = 0; h < shape.heads; ++h) {
    const float *q = query + h * dim, *g = grad_out + h * dim;
    const T* key = key_value + h * dim;
    T* grad_key = grad_key_value + h * dim;
    for (int64_t t = 0; t < tokens; ++t) {
      s[t] = Dot(q, key + t * 2 * width, dim) * shape.scale;
      d[t] = Dot(g, key + t * 2 * width + width, dim);
    }
    SoftmaxGrad(s, d, tokens, log_sum_exp[h], shape.scale);
    ForVectors(dim, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
      F32 total = Zero();
      const F32 q_lanes = Load(q + c, lanes), g_lanes = Load(g + c, lanes);
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t at = t * 2 * width + c;
        total = MulAdd(Set(d[t]), Load(key + at, lanes), total);
        Store(grad_key + at, Set(d[t]) * q_lanes, lanes);
        Store(grad_key + at + width, Set(s[t]) * g_lanes, lanes);
      }
      Store(grad_query + h * dim + c, total, lanes);
    });
  }
}

}  // namespace

extern const PoolAttentionKernels kPoolAttentionKernels;
const PoolAttentionKernels kPoolAttentionKernels = {Forward<float>, Forward<Bf16>, Backward<float>,
                                                    Backward<Bf16>};

}  // namespace vitscale::cpu::VITSCALE_SIMD
