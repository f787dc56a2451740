#include "proto/spec/utf8.h"

#include <cstdint>

namespace vitscale {
namespace {

struct Lead {
  int more;           // bytes that follow
  uint8_t low, high;  // of the first of them
};

// more < 0: no lead byte. The narrower ranges leave out overlong forms, surrogates and what is
// above U+10FFFF.
Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {0, 0, 0};
  if (byte >= 0xc2 && byte <= 0xdf) return {1, 0x80, 0xbf};
  if (byte == 0xe0) return {2, 0xa0, 0xbf};
  if (byte == 0xed) return {2, 0x80, 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {2, 0x80, 0xbf};
  if (byte == 0xf0) return {3, 0x90, 0xbf};
  if (byte >= 0xf1 && byte <= 0xf3) return {3, 0x80, 0xbf};
  if (byte == 0xf4) return {3, 0x80, 0x8f};
  return {-1, 0, 0};
}

}  // namespace

size_t FirstBadUtf8(absl::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Lead lead = LeadOf(static_cast<uint8_t>(text[at]));
    if (lead.more < 0 || at + static_cast<size_t>(lead.more) >= text.size()) return at;
    for (int i = 1; i <= lead.more; ++i) {
      const auto byte = static_cast<uint8_t>(text[at + static_cast<size_t>(i)]);
      if (byte < (i == 1 ? lead.low : 0x80) || byte > (i == 1 ? lead.high : 0xbf)) return at;
    }
    at += 1 + static_cast<size_t>(lead.more);
  }
  return absl::string_view::npos;
}

}  // namespace vitscale
