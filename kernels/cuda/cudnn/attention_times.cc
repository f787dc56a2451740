#include "kernels/cuda/cudnn/attention_times.h"

#include <array>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/defaults.h"
#include "kernels/base/files.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {
namespace {

constexpr int64_t kFileBytesMax = int64_t{16} << 20;

// The first line of a file.
std::string Head(const std::string& machine) {
  return absl::StrCat("attention 1 of ", machine,
                      ": batch tokens heads head_dim own_seconds cudnn_seconds");
}

}  // namespace

std::string AttentionTimes::DefaultPath() const {
  return absl::StrCat(DefaultStateDirectory(), "/cudnn/", absl::Hex(Hash64(machine_)), ".txt");
}

std::optional<AttentionSeconds> AttentionTimes::Find(const AttentionSize& size) const {
  const auto found = times_.find(size);
  if (found == times_.end()) return std::nullopt;
  return found->second;
}

void AttentionTimes::AddLine(absl::string_view line) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  std::array<int64_t, 4> extents{};
  AttentionSeconds seconds;
  if (words.size() != extents.size() + 2) return;
  for (size_t i = 0; i < extents.size(); ++i) {
    if (!absl::SimpleAtoi(words[i], &extents[i])) return;
  }
  const bool read =
      absl::SimpleAtod(words[4], &seconds.own) && absl::SimpleAtod(words[5], &seconds.cudnn);
  if (!read || !(seconds.own > 0) || !(seconds.cudnn > 0)) return;
  times_.emplace(AttentionSize{extents[0], extents[1], extents[2], extents[3]}, seconds);
}

absl::Status AttentionTimes::Load(const std::string& path) {
  const absl::StatusOr<std::string> text = PosixFileSystem().ReadFile(path, kFileBytesMax);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(text.status());
  const std::vector<absl::string_view> lines = absl::StrSplit(*text, '\n');
  if (lines.front() != Head(machine_)) return absl::OkStatus();
  for (const absl::string_view line : lines) AddLine(line);
  return absl::OkStatus();
}

absl::Status AttentionTimes::Save(const std::string& path) {
  (void)Load(path);
  std::string text = absl::StrCat(Head(machine_), "\n");
  for (const auto& [size, seconds] : times_) {
    absl::StrAppend(&text, size.batch, " ", size.tokens, " ", size.heads, " ", size.head_dim, " ",
                    seconds.own, " ", seconds.cudnn, "\n");
  }
  FileSystem& fs = PosixFileSystem();
  VITSCALE_RETURN_IF_ERROR(fs.MakeDirectories(path.substr(0, path.rfind('/'))));
  return WriteFileAtomically(fs, path, text);
}

}  // namespace vitscale::cuda
