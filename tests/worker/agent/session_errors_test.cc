#include "worker/agent/session_errors.h"

#include "gtest/gtest.h"

namespace vitscale::agent {
namespace {

TEST(SessionErrorsTest, ARefusedRegistrationIsConfigurationUnlessANewerLifeTookTheName) {
  EXPECT_EQ(RegistrationError(absl::UnavailableError("")), SessionError::kUnavailable);
  EXPECT_EQ(RegistrationError(absl::DeadlineExceededError("")), SessionError::kUnavailable);
  EXPECT_EQ(RegistrationError(absl::ResourceExhaustedError("")), SessionError::kUnavailable);
  EXPECT_EQ(RegistrationError(absl::PermissionDeniedError("join secret")),
            SessionError::kConfiguration);
  EXPECT_EQ(RegistrationError(absl::InvalidArgumentError("worker_id")),
            SessionError::kConfiguration);
  EXPECT_EQ(RegistrationError(absl::UnimplementedError("")), SessionError::kConfiguration);
  EXPECT_EQ(RegistrationError(absl::FailedPreconditionError("protocol version 2")),
            SessionError::kConfiguration);
  EXPECT_EQ(RegistrationError(absl::FailedPreconditionError("a newer incarnation is registered")),
            SessionError::kFenced);
}

TEST(SessionErrorsTest, ARefusedStreamMeansRegisteringAgain) {
  EXPECT_EQ(StreamError(absl::UnauthenticatedError("")), SessionError::kRefused);
  EXPECT_EQ(StreamError(absl::FailedPreconditionError("")), SessionError::kRefused);
  EXPECT_EQ(StreamError(absl::UnavailableError("")), SessionError::kUnavailable);
  EXPECT_EQ(StreamError(absl::OkStatus()), SessionError::kUnavailable);
  EXPECT_EQ(StreamError(absl::CancelledError("")), SessionError::kUnavailable);
}

}  // namespace
}  // namespace vitscale::agent
