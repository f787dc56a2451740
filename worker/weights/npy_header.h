// The header of a .npy file: which numbers, in which order, of which shape. No files here: this is
// what a fuzzer feeds.
//
// Format: "\x93NUMPY", two bytes of version, the length of the text (u16 in version 1, u32 in 2 and
// 3), then a Python dictionary such as {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
// padded by spaces and a newline. Source: numpy 2.4, numpy/lib/format.py.

#ifndef WORKER_WEIGHTS_NPY_HEADER_H_
#define WORKER_WEIGHTS_NPY_HEADER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/tensor.h"

namespace vitscale {

inline constexpr int64_t kNpyHeaderBytesMax = 64 << 10;

struct NpyHeader {
  DType dtype = DType::kF32;  // kF32 or kBf16
  Shape shape;
  int64_t header_bytes = 0;  // the data begin here
  int64_t data_bytes = 0;    // what dtype and shape want
  std::string fault;         // why the numbers cannot be read; empty: they can. The shape holds.
};

// `bytes`: the beginning of the file, at least the header. Numbers of another type or order are no
// error but a `fault`, since a file may hold what nobody asks for. bf16 is written by numpy as two
// bytes without meaning, '|V2' or '<V2'. DATA_LOSS for what is no .npy header, for a shape of more
// than 8 dimensions or one that overflows.
absl::StatusOr<NpyHeader> ParseNpyHeader(absl::string_view bytes);

// Version 1.0, little-endian f32 in C order; a multiple of 64 bytes, as numpy writes it.
std::string MakeNpyHeader(const Shape& shape);

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_NPY_HEADER_H_
