// Text for people: tables, numbers, durations, colours. No I/O.

#ifndef CLIENT_TEXT_H_
#define CLIENT_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale {

// Columns as wide as their widest cell, two spaces between, no trailing space. Widths count UTF-8
// characters.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : head_(std::move(head)) {}
  void Row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string Text() const;
  std::string Csv() const;  // RFC 4180

 private:
  std::vector<std::string> head_;
  std::vector<std::vector<std::string>> rows_;
};

// Characters on the screen, colour codes not counted.
int DisplayWidth(absl::string_view text);
// At most `width` characters; a cut is shown by "…".
std::string Shorten(absl::string_view text, int width);

std::string Thousands(int64_t number);              // "12,345"
std::string Significant(double value, int digits);  // "0.2713", "NaN"
std::string Age(absl::Duration duration);           // "42s", "3m12s", "2h05m", "4d03h"
absl::Time TimeOf(const google::protobuf::Timestamp& timestamp);
std::string ClockTime(
    const google::protobuf::Timestamp& timestamp);  // local, "2026-11-25 04:05:06"; "-" if absent

std::string StateWord(v1::JobState state);  // "RUNNING"
std::string StateWord(v1::WorkerState state);
std::string IntentWord(v1::Intent intent);
bool IsTerminal(v1::JobState state);  // SUCCEEDED, FAILED, CANCELLED

// The state in its colour: green running and succeeded, red failed, yellow what waits.
std::string Coloured(const std::string& word, bool color);
std::string Bold(const std::string& text, bool color);
std::string Dim(const std::string& text, bool color);

}  // namespace vitscale

#endif  // CLIENT_TEXT_H_
