// Places for activations by lifetime. Builders name activations by symbolic offsets;
// AssignActivations turns these into offsets in Arena::kActivations so that tensors that are never
// needed at the same time share memory.
//
// A lifetime is counted in whole panel groups: from the beginning of the group (or single op) that
// first touches the tensor to the end of the one that last does, since a backend may run a group a
// few images at a time. So tensors of one group never share memory. Views of one tensor with other
// shapes have the same symbolic offset; a view of some of its rows has as many bytes more.

#ifndef WORKER_MODEL_ACTIVATIONS_H_
#define WORKER_MODEL_ACTIVATIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/program.h"
#include "kernels/tensor.h"

namespace vitscale {

// From one symbolic offset to the next: no tensor is larger.
inline constexpr int64_t kSymbolicStride = int64_t{1} << 40;

// Hands out activations that have no place yet.
class SymbolicActivations {
 public:
  TensorView New(std::string name, DType dtype, Shape shape) {
    return {std::move(name), Arena::kActivations, kSymbolicStride * count_++, dtype,
            std::move(shape)};
  }

 private:
  int64_t count_ = 0;
};

// For each op the last op of its panel group (itself outside of groups).
std::vector<int> GroupEnds(const Program& program);

// Replaces the symbolic offsets; returns the bytes the arena needs. Deterministic.
int64_t AssignActivations(Program& program);

// Bytes of Arena::kActivations that a finished program touches.
int64_t ActivationBytes(Program& program);

}  // namespace vitscale

#endif  // WORKER_MODEL_ACTIVATIONS_H_
