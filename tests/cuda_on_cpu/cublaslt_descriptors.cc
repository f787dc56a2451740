#include "tests/cuda_on_cpu/cublaslt_descriptors.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/cuda_on_cpu/cublaslt_standin.h"

namespace vitscale::cuda_on_cpu {
namespace {

std::string& LastRefusal() {
  static auto* refusal = new std::string;
  return *refusal;
}

}  // namespace

const char* LastBlasRefusal() { return LastRefusal().c_str(); }

namespace blas {

cublasStatus_t Refuse(cublasStatus_t status, std::string why) {
  LastRefusal() = std::move(why);
  return status;
}
cublasStatus_t Invalid(std::string why) {
  return Refuse(CUBLAS_STATUS_INVALID_VALUE, std::move(why));
}

cublasStatus_t Attributes::Set(int attribute, const void* from, size_t bytes, size_t want) {
  if (from == nullptr || bytes != want) {
    return Invalid(absl::StrCat("attribute ", attribute, " has ", bytes, " bytes, want ", want));
  }
  const auto* begin = static_cast<const std::byte*>(from);
  values[attribute].assign(begin, begin + bytes);
  return CUBLAS_STATUS_SUCCESS;
}

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
      return 0;
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

}  // namespace blas
}  // namespace vitscale::cuda_on_cpu
