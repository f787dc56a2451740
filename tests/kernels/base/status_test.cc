#include "kernels/base/status.h"

#include <cerrno>

#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  VITSCALE_ASSIGN_OR_RETURN(const int half, Half(value));
  VITSCALE_RETURN_IF_ERROR(Half(half));
  return half / 2;
}

TEST(StatusMacrosTest, ReturnTheFirstErrorAndElseTheValue) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_THAT(Quarter(3), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
  EXPECT_THAT(Quarter(2), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
}

TEST(AnnotateTest, PutsTheNounBeforeTheMessageAndKeepsCodeAndPayload) {
  absl::Status status = absl::NotFoundError("gone");
  status.SetPayload("type/x", absl::Cord("bytes"));
  const absl::Status annotated = Annotate(status, "checkpoint 7");
  EXPECT_THAT(annotated, StatusIs(absl::StatusCode::kNotFound, "checkpoint 7: gone"));
  EXPECT_EQ(annotated.GetPayload("type/x"), absl::Cord("bytes"));
  EXPECT_THAT(Annotate(absl::OkStatus(), "x"), IsOk());
}

TEST(ErrnoStatusTest, CodesFollowTheMeaningOfTheNumber) {
  EXPECT_THAT(ErrnoStatus(ENOSPC, "write 'x'"),
              StatusIs(absl::StatusCode::kResourceExhausted, "write 'x': No space left on device"));
  EXPECT_THAT(ErrnoStatus(ENOENT, "a"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ErrnoStatus(EEXIST, "a"), StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(ErrnoStatus(EROFS, "a"), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(ErrnoStatus(ECONNREFUSED, "a"), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(ErrnoStatus(EIO, "a"), StatusIs(absl::StatusCode::kInternal));
}

TEST(CheckDeathTest, PrintsPlaceConditionAndTextAndAborts) {
  const int rank = 3;
  VITSCALE_CHECK(rank == 3) << "never evaluated";
  EXPECT_DEATH(VITSCALE_CHECK(rank < 2) << "rank " << rank,
               "status_test.cc:[0-9]+: check failed: rank < 2: rank 3");
}

}  // namespace
}  // namespace vitscale
