#include "worker/agent/line_splitter.h"

#include <cstdint>

namespace vitscale::agent {
namespace {

// Bytes of the well-formed sequence at the front of `text`; 0: none.
size_t SequenceBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and what lies beyond U+10FFFF.
  if (lead == 0xe0 && byte(1) < 0xa0) return 0;
  if (lead == 0xed && byte(1) > 0x9f) return 0;
  if (lead == 0xf0 && byte(1) < 0x90) return 0;
  if (lead == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

}  // namespace

std::string RepairText(absl::string_view text) {
  std::string repaired;
  repaired.reserve(text.size());
  while (!text.empty()) {
    const size_t length = SequenceBytes(text);
    const bool control =
        length == 1 && (static_cast<uint8_t>(text[0]) < 0x20 || text[0] == 0x7f) && text[0] != '\t';
    if (length == 0 || control) {
      repaired.push_back('?');
      text.remove_prefix(1);
    } else {
      repaired.append(text.data(), length);
      text.remove_prefix(length);
    }
  }
  return repaired;
}

std::vector<std::string> LineSplitter::Add(absl::string_view bytes) {
  std::vector<std::string> lines;
  rest_.append(bytes.data(), bytes.size());
  absl::string_view left = rest_;
  for (;;) {
    const size_t end = left.find('\n');
    if (end == absl::string_view::npos && left.size() <= kLineBytesMax) break;
    const bool cut = end == absl::string_view::npos || end > kLineBytesMax;
    size_t length = cut ? kLineBytesMax : end;
    // Not inside a sequence: step back over its continuation bytes.
    for (int i = 0; cut && i < 3 && (static_cast<uint8_t>(left[length]) & 0xc0) == 0x80; ++i)
      --length;
    absl::string_view line = left.substr(0, length);
    left.remove_prefix(cut ? length : length + 1);
    if (!cut && !line.empty() && line.back() == '\r') line.remove_suffix(1);
    lines.push_back(RepairText(line));
  }
  rest_ = std::string(left);
  return lines;
}

std::vector<std::string> LineSplitter::Flush() {
  std::vector<std::string> lines;
  if (!rest_.empty()) lines.push_back(RepairText(rest_));
  rest_.clear();
  return lines;
}

}  // namespace vitscale::agent
