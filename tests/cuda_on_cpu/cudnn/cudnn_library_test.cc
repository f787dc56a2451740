#include "kernels/cuda/cudnn/cudnn_library.h"

#include <cstdio>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(CudnnLibraryTest, AMissingLibraryIsNamedInOneLine) {
  EXPECT_THAT(LoadCudnn("/nowhere/libcudnn.so.9"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("cuDNN cannot be opened: "),
                             HasSubstr("/nowhere/libcudnn.so.9"), Not(HasSubstr("\n")))));
}

TEST(CudnnLibraryTest, ALibraryThatIsNotCudnnIsRefused) {
  EXPECT_THAT(LoadCudnn("libm.so.6"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("libm.so.6 has no cudnnGetVersion, want cuDNN 9.13.0 or later")));
}

TEST(CudnnLibraryTest, AnOldCudnnIsRefusedWithBothVersions) {
  CudnnLibrary library;
  library.GetVersion = +[] { return size_t{91300}; };
  EXPECT_THAT(CheckCudnnVersion(library), IsOk());
  library.GetVersion = +[] { return size_t{90100}; };
  EXPECT_THAT(CheckCudnnVersion(library), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                   "cuDNN is 9.1.0, want 9.13.0 or later"));
}

TEST(CudnnLibraryTest, AnErrorHasTheLibrarysLastWordsInOneLine) {
  CudnnLibrary library;
  library.GetErrorString = +[](cudnnStatus_t) { return "CUDNN_STATUS_BAD_PARAM"; };
  library.GetLastErrorString =
      +[](char* text, size_t size) { std::snprintf(text, size, "q has 3 axes\nwant 4"); };
  EXPECT_THAT(library.ToStatus(CUDNN_STATUS_SUCCESS, "plan"), IsOk());
  EXPECT_THAT(library.ToStatus(CUDNN_STATUS_BAD_PARAM, "plan"),
              StatusIs(absl::StatusCode::kInternal,
                       "plan: CUDNN_STATUS_BAD_PARAM (cuDNN: q has 3 axes want 4)"));
}

}  // namespace
}  // namespace vitscale::cuda
