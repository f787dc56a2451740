// What both losses share: the targets of an image, the greatest logit, and what an image leaves
// behind. Included by loss.cu alone.
//
// A thread owns every blockDim-th group of neighbouring classes. Which of them are labels it asks
// the label list, and only if one of the labels is in a group of its own.

#ifndef KERNELS_CUDA_LOSS_LABELS_H_
#define KERNELS_CUDA_LOSS_LABELS_H_

#include <climits>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/floats.h"

namespace vitscale::cuda {

struct LossRows {
  const float* logits;     // [batch, stride]
  const int32_t* ids;      // kClassId: [batch]; kSparse: [id_count]
  const int32_t* offsets;  // kSparse: [batch + 1]
  const float* dense;      // kDense: [batch, classes]
  const float* valid;      // [batch], or null
  void* grad;              // [batch, stride], or null
  double* losses;          // [batch]
  int64_t* hits;           // [batch]
  int64_t batch, id_count;
  int classes, stride;  // of logits; what lies between is padding
};

struct LossShared {
  WarpSlots<double> sums;
  WarpSlots<float> values;
  WarpSlots<int> indexes;
};

// ---- padding ------------------------------------------------------------------------------------

// `values` of classes c to c + kVec - 1, with `filler` for those that are padding.
template <int kVec>
__device__ inline Floats<kVec> WithoutPadding(Floats<kVec> values, int c, int classes,
                                              float filler) {
#pragma unroll
  for (int i = 0; i < kVec; ++i) {
    if (c + i >= classes) values[i] = filler;
  }
  return values;
}

template <int kVec>
__device__ inline Floats<kVec> LogitsAt(const float* logits, int c, int classes) {
  return WithoutPadding(LoadFloats<kVec>(logits + c), c, classes, -INFINITY);
}

// ---- targets ------------------------------------------------------------------------------------

// The targets of one image.
struct Targets {
  const int32_t* ids;  // [count]
  int64_t count;
  const float* dense;  // [classes], or null
  float weight;        // of each id
  bool is_bad;         // offsets that lead out of the ids
};

template <bool kSoftmax>
__device__ inline Targets TargetsOf(const LossRows& rows, int64_t image) {
  if (rows.dense != nullptr) return {nullptr, 0, rows.dense + image * rows.classes, 1.0f, false};
  if (rows.offsets == nullptr) return {rows.ids + image, 1, nullptr, 1.0f, false};
  const int64_t begin = rows.offsets[image], end = rows.offsets[image + 1];
  if (begin < 0 || end < begin || end > rows.id_count) return {rows.ids, 0, nullptr, 1.0f, true};
  const bool split = kSoftmax && end > begin;
  return {rows.ids + begin, end - begin, nullptr,
          split ? 1.0f / static_cast<float>(end - begin) : 1.0f, false};
}

// Whether a label is among the groups of `kVec` classes that this thread owns.
template <int kVec>
__device__ inline bool OwnsLabel(const Targets& targets) {
  for (int64_t i = 0; i < targets.count; ++i) {
    if (static_cast<unsigned>(targets.ids[i]) / kVec % blockDim.x == threadIdx.x) return true;
  }
  return false;
}

// The targets of classes c to c + kVec - 1, none of padding. A class named twice is one target of
// the sigmoid loss and two of the softmax loss.
template <bool kSoftmax, int kVec>
__device__ inline Floats<kVec> TargetsAt(const Targets& targets, bool owns_label, int c,
                                         int classes) {
  Floats<kVec> y = ZeroFloats<kVec>();
  if (targets.dense != nullptr) return c < classes ? LoadFloats<kVec>(targets.dense + c) : y;
  if (!owns_label) return y;
  for (int64_t i = 0; i < targets.count; ++i) {
    const int id = targets.ids[i];
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      if (id == c + j) y[j] = kSoftmax ? y[j] + targets.weight : 1.0f;
    }
  }
  return y;
}

// ---- answers ------------------------------------------------------------------------------------

// The first greatest of the values that a thread sees in order; NaN is never greater.
struct Greatest {
  float value;
  int index;
  __device__ void See(float other, int at) {
    if (other > value) value = other, index = at;
  }
};
template <int kVec>
__device__ inline Greatest NoneYet() {
  return {-INFINITY, static_cast<int>(threadIdx.x) * kVec};
}
// In every thread.
__device__ inline Greatest FirstGreatest(const Greatest& mine, LossShared& shared) {
  const float value = BlockMax(mine.value, shared.values);
  const int index = mine.value == value ? mine.index : INT_MAX;
  return {value, -BlockMax(-index, shared.indexes)};
}

struct Answers {
  Greatest logits, dense;  // `dense` counts only where labels are dense
};
__device__ inline Answers AnswersOf(const Greatest& logits, const Greatest& dense,
                                    const Targets& targets, LossShared& shared) {
  Answers answers{FirstGreatest(logits, shared), dense};
  if (targets.dense != nullptr) answers.dense = FirstGreatest(dense, shared);  // for all threads
  return answers;
}

// ---- images -------------------------------------------------------------------------------------

// Thread 0 keeps what the image gives. An id outside [0, classes) makes the loss NaN.
__device__ inline void KeepImage(const LossRows& rows, int64_t image, const Targets& targets,
                                 const Answers& answers, float weight, double loss) {
  if (threadIdx.x != 0) return;
  const int answer = answers.logits.index;
  bool hit = targets.dense != nullptr && answer == answers.dense.index, bad = targets.is_bad;
  for (int64_t i = 0; i < targets.count; ++i) {
    hit = hit || targets.ids[i] == answer;
    bad = bad || targets.ids[i] < 0 || targets.ids[i] >= rows.classes;
  }
  rows.losses[image] = bad ? static_cast<double>(NAN) : static_cast<double>(weight) * loss;
  rows.hits[image] = hit ? 1 : 0;
}

// An image of weight 0 is padding: its logits and labels may be anything.
template <int kVec, typename Grad>
__device__ inline void LeaveOut(const LossRows& rows, int64_t image) {
  if constexpr (kIsPresent<Grad>) {
    Grad* grad = static_cast<Grad*>(rows.grad) + image * rows.stride;
    const int step = static_cast<int>(blockDim.x) * kVec;
    for (int c = static_cast<int>(threadIdx.x) * kVec; c < rows.stride; c += step) {
      StoreFloats(grad + c, ZeroFloats<kVec>());
    }
  }
  if (threadIdx.x != 0) return;
  rows.losses[image] = 0.0;
  rows.hits[image] = 0;
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_LOSS_LABELS_H_
