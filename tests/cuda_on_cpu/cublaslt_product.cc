#include "tests/cuda_on_cpu/cublaslt_product.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/bf16.h"

// A loop that copies device memory must not become a call of memcpy: AddressSanitizer would look at
// memory that is hidden from the host.
#pragma GCC optimize("no-tree-loop-distribute-patterns")

namespace vitscale::cuda_on_cpu::blas {
namespace {

float Load(const void* from, int64_t i, cudaDataType type) {
  if (type == CUDA_R_16BF) return FromBf16(static_cast<const uint16_t*>(from)[i]);
  return static_cast<const float*>(from)[i];
}
void Store(float value, void* to, int64_t i, cudaDataType type) {
  if (type == CUDA_R_16BF) {
    static_cast<uint16_t*>(to)[i] = ToBf16(value);
  } else {
    static_cast<float*>(to)[i] = value;
  }
}

// op(M) as f32, [outer][inner] or [inner][outer] next to each other.
std::vector<float> Widened(const void* from, const Layout& layout, bool columns_first) {
  std::vector<float> wide(static_cast<size_t>(layout.rows * layout.columns));
  for (int64_t column = 0; column < layout.columns; ++column) {
    for (int64_t row = 0; row < layout.rows; ++row) {
      const int64_t at = columns_first ? row * layout.columns + column : column * layout.rows + row;
      wide[static_cast<size_t>(at)] = Load(from, column * layout.stride + row, layout.type);
    }
  }
  return wide;
}

// sums[column][row] += a[k][row] * b[column][k] for four columns; the order of k is the order of
// the sum.
constexpr int kColumnsAtOnce = 4;
__attribute__((target_clones("avx2", "default"))) void MultiplyColumns(const float* a,
                                                                       const float* b, int64_t rows,
                                                                       int64_t inner, int columns,
                                                                       float* sums) {
  for (int64_t k = 0; k < inner; ++k) {
    const float* a_k = a + k * rows;
    for (int j = 0; j < columns; ++j) {
      const float factor = b[j * inner + k];
      float* sum = sums + j * rows;
      for (int64_t row = 0; row < rows; ++row) sum[row] += a_k[row] * factor;
    }
  }
}

// GELU in the tanh form. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
constexpr double kSlope = 0.7978845608028654;  // sqrt(2 / pi)
float Gelu(float x) {
  return static_cast<float>(0.5 * x * (1 + std::tanh(kSlope * (x + 0.044715 * x * x * x))));
}
float GeluGrad(float x) {
  const double t = std::tanh(kSlope * (x + 0.044715 * x * x * x));
  const double slope = kSlope * (1 + 3 * 0.044715 * x * x);
  return static_cast<float>(0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope);
}

}  // namespace

void Task::FinishColumn(int64_t column, const float* sums) const {
  const int64_t begin = column * d_layout.stride;
  const int64_t aux = column * description.aux_stride();
  const bool has_bias = description.has_bias(), has_aux = description.has_aux();
  const void* bias = description.bias();
  void* aux_memory = description.aux();
  const bool is_gelu = description.is_gelu(), is_gelu_grad = description.is_gelu_grad();
  for (int64_t row = 0; row < d_layout.rows; ++row) {
    float z = alpha * sums[row];
    if (beta != 0) z += beta * Load(c, column * c_layout.stride + row, c_layout.type);
    if (has_bias) z += Load(bias, row, d_layout.type);
    if (is_gelu_grad) {
      z *= GeluGrad(Load(aux_memory, aux + row, d_layout.type));
    } else if (has_aux) {
      Store(z, aux_memory, aux + row, d_layout.type);
    }
    if (is_gelu) z = Gelu(z);
    Store(z, d, begin + row, d_layout.type);
  }
}

void Task::Run() const {
  const bool transpose_a = description.transposed(CUBLASLT_MATMUL_DESC_TRANSA);
  const bool transpose_b = description.transposed(CUBLASLT_MATMUL_DESC_TRANSB);
  const std::vector<float> a_wide = Widened(a, a_layout, transpose_a);  // [inner][rows]
  const std::vector<float> b_wide = Widened(b, b_layout, transpose_b);  // [columns][inner]
  const int64_t rows = d_layout.rows, inner = transpose_a ? a_layout.rows : a_layout.columns;
  std::vector<float> sums(static_cast<size_t>(kColumnsAtOnce * rows));
  for (int64_t column = 0; column < d_layout.columns; column += kColumnsAtOnce) {
    const int count =
        static_cast<int>(std::min<int64_t>(kColumnsAtOnce, d_layout.columns - column));
    std::fill(sums.begin(), sums.end(), 0.0f);
    MultiplyColumns(a_wide.data(), b_wide.data() + column * inner, rows, inner, count, sums.data());
    for (int j = 0; j < count; ++j) FinishColumn(column + j, sums.data() + j * rows);
  }
}

std::vector<Range> Task::Ranges(const void* workspace, size_t workspace_bytes) const {
  const Description& e = description;
  const int64_t element = d_layout.element_bytes();
  std::vector<Range> ranges = {{"A", a, a_layout.bytes(), false},
                               {"B", b, b_layout.bytes(), false},
                               {"D", d, d_layout.bytes(), true}};
  if (beta != 0 && c != d) {
    ranges.push_back({"C", c, c_layout.bytes(), false});
  }
  if (e.has_bias()) ranges.push_back({"bias", e.bias(), d_layout.rows * element, false});
  if (e.has_aux()) {
    const int64_t elements = (d_layout.columns - 1) * e.aux_stride() + d_layout.rows;
    ranges.push_back({"aux", e.aux(), elements * element, !e.is_gelu_grad()});
  }
  if (workspace != nullptr) {
    ranges.push_back({"workspace", workspace, static_cast<int64_t>(workspace_bytes), true});
  }
  return ranges;
}

}  // namespace vitscale::cuda_on_cpu::blas
