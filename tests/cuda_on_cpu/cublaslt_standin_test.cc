// The stand-in for cuBLASLt: what it multiplies, and that it refuses what the library's header
// forbids.

#include "tests/cuda_on_cpu/cublaslt_standin.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <vector>

#include "tests/status_matchers.h"

namespace vitscale::cuda_on_cpu {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Floats {  // in device memory
 public:
  explicit Floats(const std::vector<float>& values) : count_(values.size()) {
    EXPECT_EQ(cudaMalloc(&memory_, bytes()), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(memory_, values.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~Floats() { (void)cudaFree(memory_); }
  float* at(int i = 0) const { return static_cast<float*>(memory_) + i; }
  std::vector<float> values() const {
    std::vector<float> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), memory_, bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  size_t bytes() const { return count_ * sizeof(float); }
  size_t count_;
  void* memory_ = nullptr;
};

// D [2, 3] = A [2, 2] B [2, 3], column-major: each test spoils one thing.
class CublasLtStandInTest : public testing::Test {
 protected:
  CublasLtStandInTest() {
    EXPECT_EQ(cublasLtCreate(&handle_), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatmulDescCreate(&description_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
              CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatmulPreferenceCreate(&preference_), CUBLAS_STATUS_SUCCESS);
    a_ = Layout(2, 2, 2);
    b_ = Layout(2, 3, 2);
    d_ = Layout(2, 3, 2);
  }
  ~CublasLtStandInTest() override {
    for (const auto layout : layouts_) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulPreferenceDestroy(preference_);
    cublasLtMatmulDescDestroy(description_);
    cublasLtDestroy(handle_);
  }

  cublasLtMatrixLayout_t Layout(uint64_t rows, uint64_t columns, int64_t stride,
                                cudaDataType type = CUDA_R_32F) {
    cublasLtMatrixLayout_t layout;
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, type, rows, columns, stride),
              CUBLAS_STATUS_SUCCESS);
    layouts_.push_back(layout);
    return layout;
  }
  template <typename T>
  void Set(cublasLtMatmulDescAttributes_t attribute, T value) {
    EXPECT_EQ(cublasLtMatmulDescSetAttribute(description_, attribute, &value, sizeof(value)),
              CUBLAS_STATUS_SUCCESS);
  }
  void SetEpilogue(cublasLtEpilogue_t epilogue) { Set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue); }

  cublasStatus_t Choose() {
    const uint32_t alignment = sizeof(float);  // operands may begin anywhere
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &alignment, sizeof(alignment));
    }
    int count = 0;
    return cublasLtMatmulAlgoGetHeuristic(handle_, description_, a_, b_, d_, d_, preference_, 1,
                                          &chosen_, &count);
  }
  cublasStatus_t Multiply(const float* a, const float* b, const float* c, float* d,
                          float beta = 0) {
    const float alpha = 1;
    return cublasLtMatmul(handle_, description_, &alpha, a, a_, b, b_, &beta, c, d_, d, d_,
                          &chosen_.algo, nullptr, 0, nullptr);
  }

  cublasLtHandle_t handle_;
  cublasLtMatmulDesc_t description_;
  cublasLtMatmulPreference_t preference_;
  cublasLtMatrixLayout_t a_, b_, d_;
  std::vector<cublasLtMatrixLayout_t> layouts_;
  cublasLtMatmulHeuristicResult_t chosen_{};
  const Floats left_{{1, 2, 3, 4}}, right_{{1, 0, 0, 1, 1, 1}};
};

TEST_F(CublasLtStandInTest, MultipliesColumnMajorAndAddsC) {
  const Floats d({10, 20, 30, 40, 50, 60});
  ASSERT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(Multiply(left_.at(), right_.at(), d.at(), d.at(), 1), CUBLAS_STATUS_SUCCESS);
  EXPECT_THAT(d.values(), ElementsAre(11, 22, 33, 44, 54, 66));
}

TEST_F(CublasLtStandInTest, TransposesAndAddsTheBiasAlongTheRowsOfD) {
  const Floats d(std::vector<float>(6)), bias({100, 200});
  Set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  SetEpilogue(CUBLASLT_EPILOGUE_BIAS);
  Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(bias.at()));
  ASSERT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(Multiply(left_.at(), right_.at(), d.at(), d.at()), CUBLAS_STATUS_SUCCESS);
  EXPECT_THAT(d.values(), ElementsAre(101, 203, 102, 204, 103, 207));
}

TEST_F(CublasLtStandInTest, LeadingDimensionBelowTheRowsIsRefused) {
  d_ = Layout(2, 3, 1);
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_THAT(LastBlasRefusal(), HasSubstr("is [2, 3] with leading dimension 1"));
}

TEST_F(CublasLtStandInTest, ShapesThatDoNotFitAreRefused) {
  Set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_T);
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_THAT(LastBlasRefusal(), HasSubstr("do not fit together"));
}

TEST_F(CublasLtStandInTest, AuxNeedsALeadingDimensionThatIsAMultipleOf8) {
  const Floats aux(std::vector<float>(24));
  SetEpilogue(CUBLASLT_EPILOGUE_GELU_AUX);
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE);  // no pointer
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(aux.at()));
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{4});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_THAT(LastBlasRefusal(), HasSubstr("aux leading dimension is 4, want a multiple of 8"));
  Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{8});
  EXPECT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
}

TEST_F(CublasLtStandInTest, BiasHasTheTypeOfTheOutput) {
  const Floats bias({1, 2});
  SetEpilogue(CUBLASLT_EPILOGUE_BIAS);
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE);  // no pointer
  Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(bias.at()));
  Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_16BF);
  EXPECT_EQ(Choose(), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_THAT(LastBlasRefusal(), HasSubstr("type of a bias"));
}

TEST_F(CublasLtStandInTest, ProductsOfF32DoNotGiveBf16) {
  d_ = Layout(2, 3, 2, CUDA_R_16BF);
  EXPECT_EQ(Choose(), CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_F(CublasLtStandInTest, OutputThatOverlapsAnInputIsRefused) {
  const Floats all(std::vector<float>(16, 1.0f));
  ASSERT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(Multiply(all.at(), all.at(4), all.at(6), all.at(6)), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_THAT(LastBlasRefusal(), HasSubstr("B overlaps D"));
}

TEST_F(CublasLtStandInTest, OperandBelowTheAlignmentItWasChosenForIsRefused) {
  const Floats d(std::vector<float>(7));
  ASSERT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  auto* odd = reinterpret_cast<float*>(reinterpret_cast<char*>(d.at()) + 2);
  EXPECT_EQ(Multiply(left_.at(), right_.at(), odd, odd), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_THAT(LastBlasRefusal(), HasSubstr("not aligned"));
}

TEST_F(CublasLtStandInTest, AlgorithmOfNobodyIsRefused) {
  const Floats d(std::vector<float>(6));
  EXPECT_EQ(Multiply(left_.at(), right_.at(), d.at(), d.at()), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_THAT(LastBlasRefusal(), HasSubstr("not chosen"));
}

using CublasLtStandInDeathTest = CublasLtStandInTest;
TEST_F(CublasLtStandInDeathTest, OperandBeyondItsMemoryAborts) {
  const Floats d(std::vector<float>(5));
  ASSERT_EQ(Choose(), CUBLAS_STATUS_SUCCESS);
  EXPECT_DEATH(Multiply(left_.at(), right_.at(), d.at(), d.at()), "D reaches outside");
}

}  // namespace
}  // namespace vitscale::cuda_on_cpu
