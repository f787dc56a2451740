// Matchers for absl::Status and StatusOr; the Abseil of Debian 12 (20220623) has none.
//
//   EXPECT_THAT(Load("x"), IsOk());
//   EXPECT_THAT(Load("y"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("y")));

#ifndef TESTS_STATUS_MATCHERS_H_
#define TESTS_STATUS_MATCHERS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"

namespace vitscale {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

MATCHER(IsOk, "is OK") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

MATCHER_P2(StatusIs, code, message_matcher, "") {
  const absl::Status& status = StatusOf(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         testing::ExplainMatchResult(message_matcher, std::string(status.message()),
                                     result_listener);
}

inline auto StatusIs(absl::StatusCode code) { return StatusIs(code, testing::_); }

}  // namespace vitscale

#define VITSCALE_ASSERT_OK_AND_ASSIGN(lhs, expression)                                       \
  VITSCALE_ASSERT_OK_AND_ASSIGN_(VITSCALE_TEST_CONCAT_(_result_, __LINE__), lhs, expression)
#define VITSCALE_ASSERT_OK_AND_ASSIGN_(result, lhs, expression) \
  auto result = (expression);                                   \
  ASSERT_TRUE(result.ok()) << result.status().ToString();       \
  lhs = std::move(result).value()
#define VITSCALE_TEST_CONCAT_(a, b) VITSCALE_TEST_CONCAT_IMPL_(a, b)
#define VITSCALE_TEST_CONCAT_IMPL_(a, b) a##b

#endif  // TESTS_STATUS_MATCHERS_H_
