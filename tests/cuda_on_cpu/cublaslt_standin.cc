// The part of cuBLASLt that kernels/cuda uses, under its own symbols: descriptors are taken as they
// are given, products are made column-major in f32 in the order of k, and what the library's header
// forbids is refused.
//
// Not imitated: which shapes the vendor's heuristics have an algorithm for, split sums, and speed.

#include "tests/cuda_on_cpu/cublaslt_standin.h"

#include <cublasLt.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/bf16.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/fault.h"

// A loop that copies device memory must not become a call of memcpy: AddressSanitizer would look at
// memory that is hidden from the host.
#pragma GCC optimize("no-tree-loop-distribute-patterns")

namespace vitscale::cuda_on_cpu {
namespace {

std::string last_refusal;
uint32_t refused_epilogue = 0;
int offered_algorithms = 1;

cublasStatus_t Refuse(cublasStatus_t status, std::string why) {
  last_refusal = std::move(why);
  return status;
}
cublasStatus_t Invalid(std::string why) {
  return Refuse(CUBLAS_STATUS_INVALID_VALUE, std::move(why));
}

// ---- descriptors
// ---------------------------------------------------------------------------------

struct Layout {
  cudaDataType type;
  int64_t rows, columns, stride;  // column-major

  int64_t element_bytes() const { return type == CUDA_R_16BF ? 2 : 4; }
  int64_t bytes() const { return ((columns - 1) * stride + rows) * element_bytes(); }
  bool operator==(const Layout&) const = default;
};

struct Attributes {
  std::map<int, std::vector<std::byte>> values;

  template <typename T>
  T Get(int attribute, T otherwise) const {
    const auto found = values.find(attribute);
    if (found == values.end()) return otherwise;
    T value;
    std::memcpy(&value, found->second.data(), sizeof(T));
    return value;
  }
  cublasStatus_t Set(int attribute, const void* from, size_t bytes, size_t want) {
    if (from == nullptr || bytes != want) {
      return Invalid(absl::StrCat("attribute ", attribute, " has ", bytes, " bytes, want ", want));
    }
    const auto* begin = static_cast<const std::byte*>(from);
    values[attribute].assign(begin, begin + bytes);
    return CUBLAS_STATUS_SUCCESS;
  }
};

struct Description : Attributes {
  cublasComputeType_t compute;
  cudaDataType scale;

  bool transposed(int attribute) const {
    return Get<int32_t>(attribute, CUBLAS_OP_N) == CUBLAS_OP_T;
  }
  uint32_t epilogue() const {
    return Get<uint32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
  }
  bool has_bias() const { return (epilogue() & CUBLASLT_EPILOGUE_BIAS) != 0; }
  bool has_aux() const { return (epilogue() & 128) != 0; }
  bool is_gelu() const { return (epilogue() & CUBLASLT_EPILOGUE_GELU) != 0; }
  bool is_gelu_grad() const { return epilogue() == CUBLASLT_EPILOGUE_DGELU; }
  void* bias() const { return Get<void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, nullptr); }
  void* aux() const { return Get<void*>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, nullptr); }
  int64_t aux_stride() const { return Get<int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 0); }
};

Layout& Opened(cublasLtMatrixLayout_t layout) { return *reinterpret_cast<Layout*>(layout); }
Description& Opened(cublasLtMatmulDesc_t description) {
  return *reinterpret_cast<Description*>(description);
}
Attributes& Opened(cublasLtMatmulPreference_t preference) {
  return *reinterpret_cast<Attributes*>(preference);
}

size_t AttributeBytes(cublasLtMatmulDescAttributes_t attribute) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
    case CUBLASLT_MATMUL_DESC_TRANSB:
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
      return 4;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return 8;
    default:
      return 0;  // not imitated: refused
  }
}
size_t AttributeBytes(cublasLtMatmulPreferenceAttributes_t attribute) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return 8;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return 4;
    default:
      return 0;
  }
}

// ---- what a product is, and what the header forbids
// ------------------------------------------------

struct Product {
  const Description& description;
  const Layout &a, &b, &c, &d;
  bool transpose_a() const { return description.transposed(CUBLASLT_MATMUL_DESC_TRANSA); }
  bool transpose_b() const { return description.transposed(CUBLASLT_MATMUL_DESC_TRANSB); }
  int64_t inner() const { return transpose_a() ? a.rows : a.columns; }
};

cublasStatus_t CheckLayout(const char* name, const Layout& layout) {
  if (layout.rows < 1 || layout.columns < 1 || layout.stride < layout.rows) {
    return Invalid(absl::StrCat(name, " is [", layout.rows, ", ", layout.columns,
                                "] with leading dimension ", layout.stride,
                                ", want at least its rows"));
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CheckShapes(const Product& p) {
  const int64_t a_rows = p.transpose_a() ? p.a.columns : p.a.rows;
  const int64_t b_rows = p.transpose_b() ? p.b.columns : p.b.rows;
  const int64_t b_columns = p.transpose_b() ? p.b.rows : p.b.columns;
  if (a_rows != p.d.rows || b_columns != p.d.columns || b_rows != p.inner() ||
      p.c.rows != p.d.rows || p.c.columns != p.d.columns) {
    return Invalid(absl::StrCat("op(A) [", a_rows, ", ", p.inner(), "], op(B) [", b_rows, ", ",
                                b_columns, "], D [", p.d.rows, ", ", p.d.columns,
                                "] do not fit together"));
  }
  return CUBLAS_STATUS_SUCCESS;
}

// Source: cuBLAS manual, cublasLtMatmul, the rows of CUBLAS_COMPUTE_32F with real bf16 and f32.
cublasStatus_t CheckTypes(const Product& p) {
  const bool output_fits = p.d.type == CUDA_R_32F || p.a.type == CUDA_R_16BF;
  if (p.description.compute != CUBLAS_COMPUTE_32F || p.description.scale != CUDA_R_32F ||
      p.a.type != p.b.type || p.c.type != p.d.type || !output_fits) {
    return Refuse(CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm for these types");
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CheckEpilogue(const Product& p) {
  const Description& e = p.description;
  if (e.epilogue() == refused_epilogue) {
    return Refuse(CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm with this epilogue");
  }
  if (e.has_bias() && e.bias() == nullptr) return Invalid("bias epilogue without a bias");
  const int bias_type = e.Get<int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, -1);
  if (bias_type != -1 && bias_type != p.d.type) {
    return Invalid("the type of a bias is that of the output");
  }
  if (!e.has_aux()) return CUBLAS_STATUS_SUCCESS;
  if (e.aux() == nullptr) return Invalid("aux epilogue without an aux pointer");
  if (e.aux_stride() % 8 != 0 || e.aux_stride() < p.d.rows) {
    return Invalid(absl::StrCat("aux leading dimension is ", e.aux_stride(),
                                ", want a multiple of 8 and at least ", p.d.rows));
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t Check(const Product& p) {
  const std::pair<const char*, const Layout*> layouts[] = {
      {"A", &p.a}, {"B", &p.b}, {"C", &p.c}, {"D", &p.d}};
  for (const auto& [name, layout] : layouts) {
    const cublasStatus_t status = CheckLayout(name, *layout);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  for (const auto check : {CheckShapes, CheckTypes, CheckEpilogue}) {
    const cublasStatus_t status = check(p);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  return CUBLAS_STATUS_SUCCESS;
}

struct Range {
  const char* name;
  const void* begin;
  int64_t bytes;
  bool writes;

  bool Overlaps(const Range& other) const {
    const auto *mine = static_cast<const std::byte*>(begin),
               *its = static_cast<const std::byte*>(other.begin);
    return mine < its + other.bytes && its < mine + bytes;
  }
};

// Every operand lies in device memory, and nothing that is written overlaps anything else.
cublasStatus_t CheckRanges(const std::vector<Range>& ranges) {
  for (const Range& range : ranges) {
    const Allocation* memory = Device::Get().Find(range.begin);
    if (memory == nullptr || memory->pinned ||
        static_cast<const std::byte*>(range.begin) + range.bytes > memory->end()) {
      Fault(absl::StrCat("cublasLtMatmul: ", range.name, " reaches outside of device memory"));
    }
    for (const Range& other : ranges) {
      if (&range != &other && (range.writes || other.writes) && range.Overlaps(other)) {
        return Invalid(absl::StrCat(range.name, " overlaps ", other.name));
      }
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

// ---- the product
// -----------------------------------------------------------------------------------

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

struct Task {
  Description description;
  Layout a_layout, b_layout, c_layout, d_layout;
  float alpha, beta;
  const void *a, *b, *c;
  void* d;

  void Run() const;
  void FinishColumn(int64_t column, const float* sums) const;
};

void Task::FinishColumn(int64_t column, const float* sums) const {
  const int64_t begin = column * d_layout.stride;
  const int64_t aux = column * description.aux_stride();
  for (int64_t row = 0; row < d_layout.rows; ++row) {
    float z = alpha * sums[row];
    if (beta != 0) z += beta * Load(c, column * c_layout.stride + row, c_layout.type);
    if (description.has_bias()) z += Load(description.bias(), row, d_layout.type);
    if (description.is_gelu_grad()) {
      z *= GeluGrad(Load(description.aux(), aux + row, d_layout.type));
    } else if (description.has_aux()) {
      Store(z, description.aux(), aux + row, d_layout.type);
    }
    if (description.is_gelu()) z = Gelu(z);
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

std::vector<Range> Ranges(const Task& task, const void* workspace, size_t workspace_bytes) {
  const Description& e = task.description;
  const int64_t element = task.d_layout.element_bytes();
  std::vector<Range> ranges = {{"A", task.a, task.a_layout.bytes(), false},
                               {"B", task.b, task.b_layout.bytes(), false},
                               {"D", task.d, task.d_layout.bytes(), true}};
  if (task.beta != 0 && task.c != task.d) {
    ranges.push_back({"C", task.c, task.c_layout.bytes(), false});
  }
  if (e.has_bias()) ranges.push_back({"bias", e.bias(), task.d_layout.rows * element, false});
  if (e.has_aux()) {
    const int64_t elements = (task.d_layout.columns - 1) * e.aux_stride() + task.d_layout.rows;
    ranges.push_back({"aux", e.aux(), elements * element, !e.is_gelu_grad()});
  }
  if (workspace != nullptr) {
    ranges.push_back({"workspace", workspace, static_cast<int64_t>(workspace_bytes), true});
  }
  return ranges;
}

// What an algorithm was chosen for; kept in its opaque words.
struct Algorithm {
  uint32_t magic;
  uint32_t alignments[4];  // of A, B, C, D
};
constexpr uint32_t kMagic = 0x76697473;

cublasStatus_t CheckAlgorithm(const cublasLtMatmulAlgo_t* algo, const Task& task) {
  Algorithm algorithm;
  std::memcpy(&algorithm, algo, sizeof(algorithm));
  if (algorithm.magic != kMagic) return Invalid("the algorithm was not chosen by this library");
  const void* operands[] = {task.a, task.b, task.beta != 0 ? task.c : task.d, task.d};
  for (int i = 0; i < 4; ++i) {
    if (reinterpret_cast<uintptr_t>(operands[i]) % algorithm.alignments[i] != 0) {
      return Invalid(absl::StrCat("operand ", i, " is not aligned to ", algorithm.alignments[i],
                                  " bytes as the preference said"));
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

void RefuseEpilogue(int epilogue) { refused_epilogue = static_cast<uint32_t>(epilogue); }
void OfferAlgorithms(int count) { offered_algorithms = count; }
const char* LastBlasRefusal() { return last_refusal.c_str(); }

}  // namespace vitscale::cuda_on_cpu

// ---- the library's functions
// -------------------------------------------------------------------------

using namespace vitscale::cuda_on_cpu;  // NOLINT: this file is the library

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int(0));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "unknown";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : LastBlasRefusal();
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  if (type != CUDA_R_16BF && type != CUDA_R_32F) return Invalid("type is neither bf16 nor f32");
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(
      new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete &Opened(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  auto* made = new Description;
  made->compute = compute;
  made->scale = scale;
  *description = reinterpret_cast<cublasLtMatmulDesc_t>(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete &Opened(description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, size_t bytes) {
  return Opened(description).Set(attribute, from, bytes, AttributeBytes(attribute));
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Attributes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete &Opened(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* from, size_t bytes) {
  return Opened(preference).Set(attribute, from, bytes, AttributeBytes(attribute));
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t /*handle*/,
                                              cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* count) {
  *count = 0;
  if (requested < 1) return Invalid("no algorithm is requested");
  const cublasStatus_t status =
      Check({Opened(description), Opened(a), Opened(b), Opened(c), Opened(d)});
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const Attributes& wanted = Opened(preference);
  const auto alignment = [&](int attribute) { return wanted.Get<uint32_t>(attribute, 256); };
  const Algorithm algorithm{kMagic,
                            {alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES),
                             alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES),
                             alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES),
                             alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)}};
  *count = std::min(requested, offered_algorithms);
  for (int i = 0; i < *count; ++i) {
    results[i] = {};
    std::memcpy(&results[i].algo, &algorithm, sizeof(algorithm));
    results[i].state = CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t /*handle*/,
                                       cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  Algorithm algorithm;
  std::memcpy(&algorithm, algo, sizeof(algorithm));
  if (algorithm.magic != kMagic) return Invalid("the algorithm was not chosen by this library");
  *result = {};
  return Check({Opened(description), Opened(a), Opened(b), Opened(c), Opened(d)});
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t /*handle*/, cublasLtMatmulDesc_t description,
                              const void* alpha, const void* A, cublasLtMatrixLayout_t a,
                              const void* B, cublasLtMatrixLayout_t b, const void* beta,
                              const void* C, cublasLtMatrixLayout_t c, void* D,
                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t handle) {
  Device& device = Device::Get();
  const std::lock_guard lock(device.mutex());
  const Product product{Opened(description), Opened(a), Opened(b), Opened(c), Opened(d)};
  if (const cublasStatus_t status = Check(product); status != CUBLAS_STATUS_SUCCESS) return status;
  const Task task{product.description,
                  product.a,
                  product.b,
                  product.c,
                  product.d,
                  *static_cast<const float*>(alpha),
                  *static_cast<const float*>(beta),
                  A,
                  B,
                  C,
                  D};
  if (C == D && product.c != product.d) return Invalid("C is D, but their layouts differ");
  if (const cublasStatus_t status = CheckAlgorithm(algo, task); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  const std::vector<Range> ranges = Ranges(task, workspace, workspace_bytes);
  if (const cublasStatus_t status = CheckRanges(ranges); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  std::vector<Device::Touch> touches;
  for (const Range& range : ranges) {
    touches.push_back({range.begin, static_cast<size_t>(range.bytes), range.writes});
  }
  device.Put(*device.Open(handle), {"cublasLtMatmul", nullptr}, touches, [task] { task.Run(); });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
