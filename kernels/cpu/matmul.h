// y = x W (+ bias) on a few rows, on one thread, with W packed beforehand: one interface, two ways.
//
//   way    chosen when                              why
//   dnnl   128 rows or more, not too narrow         blocks for any cache, knows more instruction
//                                                   sets (AMX) than we do
//   tile   otherwise; bf16 without AVX512_BF16;     no cost per call
//          where oneDNN serves another set
//
// Used with W for Linear and with W^T for LinearGradInput. oneDNN 2.6 and 3 differ in
// matmul_dnnl.cc only.

#ifndef KERNELS_CPU_MATMUL_H_
#define KERNELS_CPU_MATMUL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/tile.h"

namespace vitscale::cpu {

// A right operand: W [in, out] (k = in, columns = out), or its transpose (k = out, columns = in).
struct WeightFormat {
  bool bf16 = false;  // rounded to bf16; multiplied as bf16 where the instruction set does that
  bool transposed = false;
  bool dnnl = false;  // oneDNN's own layout, else tile.h's
  bool operator==(const WeightFormat& other) const {
    return bf16 == other.bf16 && transposed == other.transposed && dnnl == other.dnnl;
  }
};

// How a packed operand lies in memory: column block by column block, each `units` unit rows
// (tile.h) of all its columns.
struct PackedLayout {
  int64_t units = 0;           // k in units, padded
  std::vector<int64_t> edges;  // where blocks begin, and the padded end; empty: oneDNN alone knows
};
PackedLayout LayoutOf(const WeightFormat& format, Isa isa, int64_t in, int64_t out);

int64_t PackedBytes(const WeightFormat& format, Isa isa, int64_t in, int64_t out);
// `blob` is [in, out] in bf16 or f32 as the format says.
void PackWeight(const WeightFormat& format, Isa isa, int64_t in, int64_t out, const void* blob,
                void* packed);

struct MatmulShape {
  std::vector<int64_t> rows;  // that Multiply will be called with, the usual number first
  int64_t in = 0, out = 0;    // of the weight
  bool bf16 = false;          // x is bf16, else f32
  bool bias = false;
  TileOut y = TileOut::kF32;
  int64_t out_stride = 0;  // elements from row to row of y, or of x where W is transposed; 0: out
  int64_t x_stride(bool transposed) const { return transposed ? padded_out() : in; }
  int64_t y_stride(bool transposed) const { return transposed ? in : padded_out(); }

 private:
  int64_t padded_out() const { return out_stride > 0 ? out_stride : out; }
};

class PackedMatmul {
 public:
  virtual ~PackedMatmul() = default;
  virtual const WeightFormat& format() const = 0;
  virtual int64_t scratch_bytes() const = 0;
  // x [rows, k], y [rows, columns], dense but for out_stride; `scratch` on a cache line. `thread`
  // below the number given to Make.
  virtual void Multiply(int thread, int64_t rows, const void* x, const void* packed,
                        const float* bias, void* y, std::byte* scratch) = 0;
};

using PackedMatmulOr = absl::StatusOr<std::unique_ptr<PackedMatmul>>;

// Chooses the way. INTERNAL when oneDNN fails.
PackedMatmulOr MakePackedMatmul(const MatmulShape& shape, bool transposed, Isa isa, int threads);

// The two ways; tests call them.
std::unique_ptr<PackedMatmul> MakeTileMatmul(const MatmulShape& shape, bool transposed, Isa isa);
PackedMatmulOr MakeDnnlMatmul(const MatmulShape& shape, bool transposed, int threads);

// Whether oneDNN uses nothing above `isa`, and all that it could. It has one instruction set per
// process, that of the first call; later calls with another give false. Backends call it when they
// are made, before anything else uses oneDNN.
bool DnnlServes(Isa isa);

// oneDNN's layout of a weight. Failures of oneDNN after preparation abort: memory and shapes were
// all checked then.
PackedLayout DnnlLayout(const WeightFormat& format, int64_t in, int64_t out);
int64_t DnnlPackedBytes(const WeightFormat& format, int64_t in, int64_t out);
void DnnlPackWeight(const WeightFormat& format, int64_t in, int64_t out, const void* blob,
                    void* packed);
const char* DnnlVersion();  // "oneDNN 2.6.3"

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_MATMUL_H_
