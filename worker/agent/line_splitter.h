// Cuts what a trainer prints into lines: without line end, at most 8 KiB, valid UTF-8.

#ifndef WORKER_AGENT_LINE_SPLITTER_H_
#define WORKER_AGENT_LINE_SPLITTER_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace vitscale::agent {

inline constexpr size_t kLineBytesMax = 8192;

// Every byte that is not part of a well-formed UTF-8 sequence (RFC 3629), and every control
// character but the tabulator, becomes '?'.
std::string RepairText(absl::string_view text);

class LineSplitter {
 public:
  // Whole lines in `bytes` and what was kept before. A longer line is cut and goes on in the next
  // one.
  std::vector<std::string> Add(absl::string_view bytes);
  // The rest, when the writer is gone; empty: nothing.
  std::vector<std::string> Flush();

 private:
  std::string rest_;
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_LINE_SPLITTER_H_
