#include "tests/cuda_on_cpu/cublaslt_rules.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/cuda_on_cpu/cublaslt_standin.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/fault.h"

namespace vitscale::cuda_on_cpu {
namespace {

uint32_t refused_epilogue = 0;

}  // namespace

void RefuseEpilogue(int epilogue) { refused_epilogue = static_cast<uint32_t>(epilogue); }

namespace blas {
namespace {

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

}  // namespace

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

}  // namespace blas
}  // namespace vitscale::cuda_on_cpu
