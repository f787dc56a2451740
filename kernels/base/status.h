// Errors as values: macros over absl::Status, and the check for what cannot happen.
//
//   absl::StatusOr<Manifest> ReadManifest(const std::string& path) {
//     VITSCALE_ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(path, kManifestBytesMax));
//     VITSCALE_RETURN_IF_ERROR(CheckText(text));
//     VITSCALE_CHECK(!text.empty()) << "CheckText refuses empty text";
//     …
//
// A message names the thing, what it was and what was wanted; each layer adds its own noun once (Annotate).

#ifndef KERNELS_BASE_STATUS_H_
#define KERNELS_BASE_STATUS_H_

#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale {

// "noun: message", with code and payloads kept. OK stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view noun);

// A failed system call as a status: "write 'x/y': No space left on device". The code follows the meaning of the
// number: ENOENT is NOT_FOUND, EEXIST ALREADY_EXISTS, EACCES, EPERM and EROFS PERMISSION_DENIED, ENOSPC, EDQUOT,
// ENOMEM and EMFILE RESOURCE_EXHAUSTED, a refused or reset connection UNAVAILABLE, a time-out DEADLINE_EXCEEDED,
// a bad argument INVALID_ARGUMENT, the rest INTERNAL. `error` must not be 0.
absl::Status ErrnoStatus(int error, absl::string_view what);

namespace internal {
// Prints "file:line: check failed: condition: text" to standard error and aborts when destroyed.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return text_; }

 private:
  std::ostringstream text_;
};
struct CheckVoidify {  // binds weaker than <<, stronger than ?:
  void operator&(std::ostream&) {}
};

inline const absl::Status& ToStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& ToStatus(const absl::StatusOr<T>& result) {
  return result.status();
}
}  // namespace internal
}  // namespace vitscale

#define VITSCALE_CONCAT_INNER_(a, b) a##b
#define VITSCALE_CONCAT_(a, b) VITSCALE_CONCAT_INNER_(a, b)

// Returns the status of `expression` (a Status or a StatusOr) from the calling function unless it is OK.
#define VITSCALE_RETURN_IF_ERROR(expression)                                               \
  do {                                                                                     \
    if (auto vitscale_status_ = (expression); !vitscale_status_.ok()) [[unlikely]] {       \
      return ::vitscale::internal::ToStatus(vitscale_status_);                             \
    }                                                                                      \
  } while (false)

// lhs = value of `expression`, or returns its status. lhs may declare a variable: `const auto x`.
#define VITSCALE_ASSIGN_OR_RETURN(lhs, expression) \
  VITSCALE_ASSIGN_OR_RETURN_(VITSCALE_CONCAT_(vitscale_result_, __LINE__), lhs, expression)
#define VITSCALE_ASSIGN_OR_RETURN_(result, lhs, expression) \
  auto result = (expression);                               \
  if (!result.ok()) [[unlikely]] {                          \
    return result.status();                                 \
  }                                                         \
  lhs = std::move(result).value()

// For what cannot happen whatever the input is. Checked in every build.
#define VITSCALE_CHECK(condition)                      \
  static_cast<bool>(condition)                         \
      ? (void)0                                        \
      : ::vitscale::internal::CheckVoidify() &         \
            ::vitscale::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

#endif  // KERNELS_BASE_STATUS_H_
