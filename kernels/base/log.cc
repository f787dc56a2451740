#include "kernels/base/log.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace vitscale {
namespace {

struct LogState {
  std::mutex mutex;
  std::string name = "vitscale";
  std::function<void(const std::string&)> sink;
};
LogState& State() {
  static LogState* state = new LogState;  // never destroyed: threads may log while the program ends
  return *state;
}

std::string LowerEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : absl::AsciiStrToLower(value);
}

bool JsonWanted() {
  static const bool json = LowerEnvironment("VITSCALE_LOG_FORMAT") == "json";
  return json;
}

LogLevel LowestLevel() {
  static const LogLevel level = [] {
    const std::string wanted = LowerEnvironment("VITSCALE_LOG_LEVEL");
    if (wanted == "error") return LogLevel::ERROR;
    return wanted == "warning" ? LogLevel::WARNING : LogLevel::INFO;
  }();
  return level;
}

const char* BaseOf(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

// Control characters, quotes and backslashes escaped as in JSON; used for both formats, so that a
// message with a line break stays one line.
std::string Escape(absl::string_view text, bool quotes) {
  std::string result;
  for (const char c : text) {
    if (c == '\n') {
      result += "\\n";
    } else if (c == '\t') {
      result += quotes ? "\\t" : "\t";
    } else if (quotes && (c == '"' || c == '\\')) {
      result += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(&result, "\\u%04x", static_cast<unsigned>(c));
    } else {
      result += c;
    }
  }
  return result;
}

void WriteToStandardError(absl::string_view line) {
  while (!line.empty()) {
    const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody is left to tell
    line.remove_prefix(written);
  }
}

}  // namespace

void SetLogName(absl::string_view name) {
  std::lock_guard<std::mutex> lock(State().mutex);
  State().name = std::string(name);
}

bool LogEnabled(LogLevel level) { return level >= LowestLevel(); }

void SetLogSinkForTests(std::function<void(const std::string& line)> sink) {
  std::lock_guard<std::mutex> lock(State().mutex);
  State().sink = std::move(sink);
}

std::string FormatLogLine(bool json, LogLevel level, absl::string_view rfc3339_time,
                          absl::string_view name, absl::string_view file, int line,
                          absl::string_view message) {
  static constexpr const char* kNames[] = {"info", "warning", "error"};
  const char* level_name = kNames[static_cast<int>(level)];
  if (json) {
    return absl::StrFormat(
        R"({"time":"%s","level":"%s","name":"%s","file":"%s","line":%d,"message":"%s"})",
        rfc3339_time, level_name, Escape(name, true), Escape(file, true), line,
        Escape(message, true));
  }
  return absl::StrFormat("%s %c %s %s:%d] %s", rfc3339_time, absl::ascii_toupper(level_name[0]),
                         name, file, line, Escape(message, false));
}

namespace internal {

LogMessage::~LogMessage() {
  const std::string time =
      absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  LogState& state = State();
  std::lock_guard<std::mutex> lock(state.mutex);
  std::string text =
      FormatLogLine(JsonWanted(), level_, time, state.name, BaseOf(file_), line_, text_.str());
  if (state.sink) {
    state.sink(text);
    return;
  }
  text += '\n';
  WriteToStandardError(text);
}

}  // namespace internal
}  // namespace vitscale
