#include "kernels/cpu/pool.h"
#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/vector_math.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

template <typename T>
void SumRows(const T* x, int64_t rows, int64_t width, float scale, float* y) {
  ForVectors(width, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    F32 sum = Zero();
    for (int64_t r = 0; r < rows; ++r) sum = sum + Load(x + r * width + c, lanes);
    Store(y + c, sum * Set(scale), lanes);
  });
}

void Scale(const float* x, float scale, float* y, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int)
                        VITSCALE_BODY { Store(y + c, Load(x + c, lanes) * Set(scale), lanes); });
}

template <typename T>
void TanhRow(const T* x, T* y, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int)
                        VITSCALE_BODY { Store(y + c, Tanh(Load(x + c, lanes)), lanes); });
}

template <typename T>
void TanhGradRow(const T* grad_y, const T* y, T* grad_x, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 value = Load(y + c, lanes);
    Store(grad_x + c, Load(grad_y + c, lanes) * NegMulAdd(value, value, Set(1.0f)), lanes);
  });
}

}  // namespace

extern const PoolKernels kPoolKernels;
const PoolKernels kPoolKernels = {SumRows<float>,   SumRows<Bf16>, Scale,
                                  TanhRow<float>,   TanhRow<Bf16>, TanhGradRow<float>,
                                  TanhGradRow<Bf16>};

}  // namespace vitscale::cpu::VITSCALE_SIMD
