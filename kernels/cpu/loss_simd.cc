// Sigmoid and softmax losses, vectorised over classes. Contract: loss.h.
//
// With t = e^-|z|, so that nothing overflows:
//   -(y log sigmoid(z) + (1 - y) log sigmoid(-z)) = max(z, 0) - y z + log(1 + t)
//   sigmoid(z) = 1 / (1 + t) for z >= 0, else t / (1 + t)
// For a right answer (y = 1, z >> 0) the first two terms cancel exactly and the loss keeps its
// relative precision; so does the gradient, which is not taken as sigmoid(z) - 1. Every sum over
// classes is in f64, one partial sum per lane. A logit of -inf is a class that cannot be: where it
// is no target, y z counts as 0.

#include <cmath>

#include "kernels/cpu/loss.h"
#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/vector_math.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

constexpr float kInfinity = __builtin_inff();

Greatest FindGreatest(const float* values, int64_t count) {
  alignas(64) float lane_index[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lane_index[i] = static_cast<float>(i);
  // Indices are kept as f32: exact up to 2^24 classes.
  F32 index = Load(lane_index);
  F32 best = Set(-kInfinity);
  F32 best_index = index;
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t left = count - c;
    const F32 z = left >= kLanes ? Load(values + c)
                                 : Keep(LoadPartial(values + c, left), Tail{left}, Set(-kInfinity));
    const Mask greater = best < z;
    best = Select(greater, z, best);
    best_index = Select(greater, index, best_index);
    index = index + Set(static_cast<float>(kLanes));
  }
  alignas(64) float value[kLanes];
  Store(value, best);
  Store(lane_index, best_index);
  int64_t winner = 0;
  for (int64_t i = 1; i < kLanes; ++i) {
    if (value[i] > value[winner] ||
        (value[i] == value[winner] && lane_index[i] < lane_index[winner])) {
      winner = i;
    }
  }
  return {value[winner], static_cast<int64_t>(lane_index[winner])};
}

// z where y is not 0, else `other`: 0 * -inf would be NaN.
VITSCALE_INLINE F32 WhereLabel(F32 y, F32 z, F32 other) {
  return Select(Zero() < Abs(y), z, other);
}

// ---- sigmoid ------------------------------------------------------------------------------------

template <typename Grad, typename Y>
double SigmoidPiece(const float* logits, const Y* labels, float weight, Grad* grad, int64_t count) {
  F64 total = ZeroDouble();
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 z = Load(logits + c, lanes);
    const F32 y = Load(Advance(labels, c), lanes);
    const F32 t = Exp(Zero() - Abs(z));
    F32 loss = Max(Zero(), z);
    if constexpr (kPresent<Y>) loss = NegMulAdd(y, WhereLabel(y, z, Zero()), loss);
    loss = loss + Log1pUnit(t);
    total = total + Widen(Keep(loss, lanes, Zero()));
    if constexpr (kPresent<Grad>) {
      const Mask negative = z < Zero();
      F32 gradient = Select(negative, t, Set(1.0f)) / (t + Set(1.0f));  // sigmoid(z)
      if constexpr (kPresent<Y>) {  // (1 - y) sigmoid(z) - y sigmoid(-z)
        const F32 complement = Select(negative, Set(1.0f), t) / (t + Set(1.0f));
        gradient = NegMulAdd(y, complement, (Set(1.0f) - y) * gradient);
      }
      Store(grad + c, gradient * Set(weight), lanes);
    }
  });
  return ReduceAdd(total);
}

template <typename Grad>
double SigmoidRow(const float* logits, const float* labels, float weight, void* grad,
                  int64_t count) {
  Grad* to = static_cast<Grad*>(grad);
  if (labels == nullptr) return SigmoidPiece<Grad, None>(logits, nullptr, weight, to, count);
  return SigmoidPiece<Grad, float>(logits, labels, weight, to, count);
}

// ---- softmax ------------------------------------------------------------------------------------

double ExpSum(const float* logits, float maximum, int64_t count) {
  F64 total = ZeroDouble();
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    total = total + Widen(Keep(Exp(Load(logits + c, lanes) - Set(maximum)), lanes, Zero()));
  });
  return ReduceAdd(total);
}

template <typename Grad, typename Y>
void SoftmaxGradPiece(const float* logits, const Y* labels, float maximum, float scale,
                      float weight, Grad* grad, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 e = Exp(Load(logits + c, lanes) - Set(maximum));
    Store(grad + c, (e * Set(scale) - Load(Advance(labels, c), lanes)) * Set(weight), lanes);
  });
}

template <typename Grad>
void SoftmaxGrad(const float* logits, const float* labels, float maximum, float scale, float weight,
                 void* grad, int64_t count) {
  Grad* to = static_cast<Grad*>(grad);
  if (labels == nullptr) {
    SoftmaxGradPiece<Grad, None>(logits, nullptr, maximum, scale, weight, to, count);
  } else {
    SoftmaxGradPiece<Grad, float>(logits, labels, maximum, scale, weight, to, count);
  }
}

void LabelSums(const float* logits, const float* labels, float maximum, int64_t count,
               double* label_sum, double* gap_sum) {
  F64 sum = ZeroDouble(), gap = ZeroDouble();
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 label = Load(labels + c, lanes);
    const F64 y = Widen(label);
    sum = sum + y;
    const F32 z = WhereLabel(label, Load(logits + c, lanes), Set(maximum));
    gap = gap + y * (WideSet(maximum) - Widen(z));
  });
  *label_sum = ReduceAdd(sum);
  *gap_sum = ReduceAdd(gap);
}

}  // namespace

extern const LossKernels kLossKernels;
const LossKernels kLossKernels = {FindGreatest,
                                  {SigmoidRow<None>, SigmoidRow<float>, SigmoidRow<Bf16>},
                                  ExpSum,
                                  {nullptr, SoftmaxGrad<float>, SoftmaxGrad<Bf16>},
                                  LabelSums};

}  // namespace vitscale::cpu::VITSCALE_SIMD
