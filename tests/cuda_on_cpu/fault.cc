#include "tests/cuda_on_cpu/fault.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/sanitizer.h"

namespace vitscale::cuda_on_cpu {
namespace {

std::vector<std::string> Symbolized(const void* pc, const char* format) {
  std::vector<char> text(16 * 1024, 0);
  SymbolizePc(const_cast<void*>(pc), format, text.data(), text.size() - 2);
  std::vector<std::string> frames;
  for (const char* at = text.data(); *at != 0; at += std::strlen(at) + 1) frames.emplace_back(at);
  return frames;
}

// A return address points behind the call.
std::vector<std::string> Frames(CodePlace place) {
  return Symbolized(static_cast<const char*>(place) - 1, "%s:%l");
}

std::string Short(const std::string& path) {
  for (const char* root : {"/kernels/", "/tests/"}) {
    const size_t at = path.rfind(root);
    if (at != std::string::npos) return path.substr(at + 1);
  }
  return path;
}

}  // namespace

std::string PlaceName(CodePlace place) {
  if (place == nullptr) return "?";
  const std::vector<std::string> frames = Frames(place);
  for (const std::string& frame : frames) {
    if (!absl::StrContains(frame, "/cuda/dialect/")) return Short(frame);
  }
  if (!frames.empty()) return Short(frames.front());
  return absl::StrCat("0x", absl::Hex(reinterpret_cast<uintptr_t>(place)));
}

bool SamePlace(CodePlace a, CodePlace b) {
  if (a == b || !kAddressSanitizer) return true;  // without names nothing can be said
  return Frames(a) == Frames(b);
}

// The symbolizer takes a program counter for a return address and looks a byte before it.
std::string FunctionName(const void* function) {
  const std::vector<std::string> frames = Symbolized(static_cast<const char*>(function) + 1, "%f");
  return frames.empty() ? "?" : frames.back();
}

void Fault(absl::string_view what, CodePlace place) {
  std::string text = absl::StrCat("cuda_on_cpu: ", what, "\n");
  if (place != nullptr) absl::StrAppend(&text, "  at ", PlaceName(place), "\n");
  absl::StrAppend(&text, DescribeRunningThread());
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
  std::abort();
}

}  // namespace vitscale::cuda_on_cpu
