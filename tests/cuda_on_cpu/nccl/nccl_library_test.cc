#include "kernels/cuda/nccl/nccl_library.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_on_cpu/nccl_standin.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::NcclStandin;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(NcclLibraryTest, AMissingLibraryIsNamedInOneLine) {
  EXPECT_THAT(LoadNccl("/nowhere/libnccl.so.2"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("sums between GPUs: NCCL cannot be opened: "),
                             HasSubstr("/nowhere/libnccl.so.2"), Not(HasSubstr("\n")))));
}

TEST(NcclLibraryTest, ALibraryThatIsNotNcclIsRefused) {
  EXPECT_THAT(LoadNccl("libm.so.6"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("libm.so.6 has no ncclGetVersion, want NCCL 2.25.0 or later")));
}

TEST(NcclLibraryTest, AnOldNcclIsRefusedWithBothVersions) {
  NcclLibrary library = NcclStandin();
  EXPECT_THAT(CheckNcclVersion(library), IsOk());
  library.GetVersion = +[](int* version) {
    *version = 21903;
    return ncclSuccess;
  };
  EXPECT_THAT(CheckNcclVersion(library), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                  "NCCL is 2.19.3, want 2.25.0 or later"));
}

TEST(NcclLibraryTest, ALostPeerIsUnavailableAWrongUseIsTheCallersTheRestIsInternal) {
  const NcclLibrary library = NcclStandin();
  EXPECT_THAT(library.ToStatus(ncclInProgress, "sum", nullptr), IsOk());
  EXPECT_THAT(library.ToStatus(ncclRemoteError, "sum", nullptr),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("sum: remote process exited")));
  EXPECT_THAT(library.ToStatus(ncclInvalidUsage, "sum", nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sum: invalid usage")));
  EXPECT_THAT(library.ToStatus(ncclUnhandledCudaError, "sum", nullptr),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("sum: ")));
}

}  // namespace
}  // namespace vitscale::cuda
