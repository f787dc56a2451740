// Log lines on standard error, one line each, whole lines from any thread.
//
//   VITSCALE_LOG(INFO) << "job " << id << " is RUNNING";
//   2026-11-25T03:50:01.123Z I vitscaled job.cc:81] job k3… is RUNNING
//
// Environment, read at the first line: VITSCALE_LOG_FORMAT=json gives one object a line (time, level, name, file,
// line, message); VITSCALE_LOG_LEVEL=info|warning|error drops what is below (default info). Never log secrets.

#ifndef KERNELS_BASE_LOG_H_
#define KERNELS_BASE_LOG_H_

#include <functional>
#include <sstream>
#include <string>

#include "absl/strings/string_view.h"

namespace vitscale {

enum class LogLevel { INFO, WARNING, ERROR };

// Name of the program in every line ("vitscaled", "trainer j3…/0"). Call early in main; may be called again.
void SetLogName(absl::string_view name);

bool LogEnabled(LogLevel level);

// Tests: lines go to `sink` (without line break) instead of standard error; null restores. Thread-safe.
void SetLogSinkForTests(std::function<void(const std::string& line)> sink);

// The line for given values; `json` chooses the format. Pure.
std::string FormatLogLine(bool json, LogLevel level, absl::string_view rfc3339_time,
                          absl::string_view name, absl::string_view file, int line,
                          absl::string_view message);

namespace internal {
class LogMessage {
 public:
  LogMessage(LogLevel level, const char* file, int line) : level_(level), file_(file), line_(line) {}
  ~LogMessage();
  std::ostream& stream() { return text_; }

 private:
  LogLevel level_;
  const char* file_;
  int line_;
  std::ostringstream text_;
};
struct LogVoidify {
  void operator&(std::ostream&) {}
};
}  // namespace internal
}  // namespace vitscale

#define VITSCALE_LOG(level)                                        \
  !::vitscale::LogEnabled(::vitscale::LogLevel::level)             \
      ? (void)0                                                    \
      : ::vitscale::internal::LogVoidify() &                       \
            ::vitscale::internal::LogMessage(::vitscale::LogLevel::level, __FILE__, __LINE__).stream()

#endif  // KERNELS_BASE_LOG_H_
