// Tensors as the model sees them: a shape and a place in a planned arena, never a pointer.
//
// A backend turns (arena, offset) into memory when a program is prepared. Nothing allocates while a step runs.
// Dimensions are written outer to inner; storage is dense and row-major.

#ifndef KERNELS_TENSOR_H_
#define KERNELS_TENSOR_H_

#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vitscale {

enum class DType : uint8_t { kU8, kBf16, kF32, kF64, kI32, kI64 };

constexpr int64_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kU8: return 1;
    case DType::kBf16: return 2;
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kF64:
    case DType::kI64: return 8;
  }
  return 0;
}
constexpr const char* DTypeName(DType dtype) {
  constexpr const char* kNames[] = {"u8", "bf16", "f32", "f64", "i32", "i64"};
  return kNames[static_cast<int>(dtype)];
}

// The planned memory of a replica. What survives a step: parameters, momentum and second moment (the *state*).
enum class Arena : uint8_t {
  kParameters,    // f32 master parameters, in the order of the param table
  kGradients,     // f32 sums over the images of this rank, in reverse execution order
  kMomentum,      // bf16 (Adafactor, SGD, AdamW first moment)
  kSecondMoment,  // f32; factored rows and columns, or full
  kAverage,       // f32; Polyak average, when asked for
  kActivations,   // planned by lifetime
  kInput,         // images, crops and flips, labels: written by the host before a micro-batch
  kStatistics,    // loss sum, correct count, gradient norm, digest: read by the host after a step
};
inline constexpr int kArenaCount = 8;
constexpr const char* ArenaName(Arena arena) {
  constexpr const char* kNames[] = {"parameters", "gradients",   "momentum", "second_moment",
                                    "average",    "activations", "input",    "statistics"};
  return kNames[static_cast<int>(arena)];
}

using Shape = absl::InlinedVector<int64_t, 4>;

inline int64_t ElementCount(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

struct TensorView {
  std::string name;       // for messages: "blocks.3.mlp.hidden"; empty means absent (see present())
  Arena arena = Arena::kActivations;
  int64_t offset = -1;    // bytes from the start of the arena, a multiple of kTensorAlignment
  DType dtype = DType::kF32;
  Shape shape;

  bool present() const { return offset >= 0; }
  int64_t elements() const { return ElementCount(shape); }
  int64_t bytes() const { return elements() * DTypeBytes(dtype); }
  int64_t rows() const { return shape.empty() ? 0 : elements() / shape.back(); }
  int64_t columns() const { return shape.empty() ? 0 : shape.back(); }
};

inline constexpr int64_t kTensorAlignment = 64;  // bytes: one cache line, one AVX-512 register

inline int64_t AlignUp(int64_t bytes, int64_t alignment = kTensorAlignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// "blocks.0.qkv f32 [196, 1152] at activations+4096"
inline std::string DebugString(const TensorView& t) {
  return absl::StrCat(t.name, " ", DTypeName(t.dtype), " [", absl::StrJoin(t.shape, ", "), "] at ",
                      ArenaName(t.arena), "+", t.offset);
}

}  // namespace vitscale

#endif  // KERNELS_TENSOR_H_
