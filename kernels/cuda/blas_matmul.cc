#include "kernels/cuda/blas_matmul.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {
namespace {

cudaDataType DataType(DType dtype) { return dtype == DType::kBf16 ? CUDA_R_16BF : CUDA_R_32F; }

cublasLtEpilogue_t Epilogue(BlasEpilogue epilogue) {
  switch (epilogue) {
    case BlasEpilogue::kNone:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case BlasEpilogue::kBias:
      return CUBLASLT_EPILOGUE_BIAS;
    case BlasEpilogue::kGeluGrad:
      return CUBLASLT_EPILOGUE_DGELU;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

// A row-major [rows, columns] matrix as the library sees it.
absl::StatusOr<Layout> MakeLayout(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
  cublasLtMatrixLayout_t raw = nullptr;
  VITSCALE_RETURN_IF_ERROR(
      BlasStatus(cublasLtMatrixLayoutCreate(&raw, DataType(dtype), static_cast<uint64_t>(columns),
                                            static_cast<uint64_t>(rows), stride),
                 "create layout"));
  return Layout(raw);
}

template <typename T>
absl::Status Set(const Description& description, cublasLtMatmulDescAttributes_t attribute,
                 const T& value) {
  return BlasStatus(
      cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof(value)),
      "describe a product");
}
absl::StatusOr<Description> Describe(const BlasMatmul& m) {
  cublasLtMatmulDesc_t raw = nullptr;
  // Never TF32: f32 is asked for where bits matter.
  VITSCALE_RETURN_IF_ERROR(BlasStatus(
      cublasLtMatmulDescCreate(&raw, CUBLAS_COMPUTE_32F, CUDA_R_32F), "create description"));
  Description description(raw);
  const auto transposed = [](bool yes) { return yes ? CUBLAS_OP_T : CUBLAS_OP_N; };
  VITSCALE_RETURN_IF_ERROR(
      Set(description, CUBLASLT_MATMUL_DESC_TRANSA, transposed(m.transpose_b)));
  VITSCALE_RETURN_IF_ERROR(
      Set(description, CUBLASLT_MATMUL_DESC_TRANSB, transposed(m.transpose_a)));
  VITSCALE_RETURN_IF_ERROR(Set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, Epilogue(m.epilogue)));
  if (m.bias != nullptr) {
    VITSCALE_RETURN_IF_ERROR(Set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, m.bias));
  }
  if (m.aux != nullptr) {
    VITSCALE_RETURN_IF_ERROR(Set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, m.aux));
    VITSCALE_RETURN_IF_ERROR(Set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, m.columns));
  }
  return description;
}

}  // namespace

absl::Status BlasStatus(cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string text = absl::StrCat("cuBLASLt: ", what, ": ", cublasLtGetStatusString(status),
                                        " (", cublasLtGetStatusName(status), ")");
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return absl::UnimplementedError(text);
  return absl::InternalError(text);
}

absl::StatusOr<std::shared_ptr<BoundMatmul>> BoundMatmul::Create(const BlasMatmul& m) {
  auto bound = std::make_shared<BoundMatmul>();
  bound->matmul = m;
  VITSCALE_ASSIGN_OR_RETURN(bound->description, Describe(m));
  VITSCALE_ASSIGN_OR_RETURN(bound->a, MakeLayout(m.input, m.transpose_a ? m.inner : m.rows,
                                                 m.transpose_a ? m.rows : m.inner, m.a_stride));
  VITSCALE_ASSIGN_OR_RETURN(bound->b, MakeLayout(m.input, m.transpose_b ? m.columns : m.inner,
                                                 m.transpose_b ? m.inner : m.columns, m.b_stride));
  VITSCALE_ASSIGN_OR_RETURN(bound->d, MakeLayout(m.output, m.rows, m.columns, m.d_stride));
  return bound;
}

cublasStatus_t BoundMatmul::Run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& with,
                                const BlasWorkspace& workspace, cudaStream_t stream) const {
  const BlasMatmul& m = matmul;
  const float one = 1.0f, beta = m.add ? 1.0f : 0.0f;
  return cublasLtMatmul(handle, description.get(), &one, m.b, b.get(), m.a, a.get(), &beta,
                        m.add ? m.c : m.d, d.get(), m.d, d.get(), &with, workspace.memory,
                        workspace.bytes, stream);
}

}  // namespace vitscale::cuda
