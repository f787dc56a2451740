// What the stand-in for cuBLASLt is told about a product: layouts, descriptions and preferences
// behind the library's handles, as they were given.

#ifndef TESTS_CUDA_ON_CPU_CUBLASLT_DESCRIPTORS_H_
#define TESTS_CUDA_ON_CPU_CUBLASLT_DESCRIPTORS_H_

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace vitscale::cuda_on_cpu::blas {

// Keeps why for LastBlasRefusal.
cublasStatus_t Refuse(cublasStatus_t status, std::string why);
cublasStatus_t Invalid(std::string why);

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
  // INVALID_VALUE unless there are `want` bytes.
  cublasStatus_t Set(int attribute, const void* from, size_t bytes, size_t want);
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

Layout& Opened(cublasLtMatrixLayout_t layout);
Description& Opened(cublasLtMatmulDesc_t description);
Attributes& Opened(cublasLtMatmulPreference_t preference);

// How large the value of an attribute is; 0 for what is not imitated.
size_t AttributeBytes(cublasLtMatmulDescAttributes_t attribute);
size_t AttributeBytes(cublasLtMatmulPreferenceAttributes_t attribute);

}  // namespace vitscale::cuda_on_cpu::blas

#endif  // TESTS_CUDA_ON_CPU_CUBLASLT_DESCRIPTORS_H_
