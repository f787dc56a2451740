#include "kernels/cuda/cudnn/attention_times.h"

#include <array>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"
#include "kernels/cuda/machine_file.h"

namespace vitscale::cuda {
namespace {

// The first line of a file.
std::string Head(const std::string& machine) {
  return absl::StrCat("attention 1 of ", machine,
                      ": batch tokens heads head_dim own_seconds cudnn_seconds");
}

}  // namespace

std::string AttentionTimes::DefaultPath() const { return MachineFilePath("cudnn", machine_); }

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
  VITSCALE_ASSIGN_OR_RETURN(const auto lines, ReadMachineFile(path, Head(machine_)));
  for (const std::string& line : lines) AddLine(line);
  return absl::OkStatus();
}

absl::Status AttentionTimes::Save(const std::string& path) {
  return UpdateMachineFile(path, Head(machine_), [this](const std::vector<std::string>& lines) {
    for (const std::string& line : lines) AddLine(line);
    std::vector<std::string> merged;
    for (const auto& [size, seconds] : times_) {
      merged.push_back(absl::StrCat(size.batch, " ", size.tokens, " ", size.heads, " ",
                                    size.head_dim, " ", seconds.own, " ", seconds.cudnn));
    }
    return merged;
  });
}

}  // namespace vitscale::cuda
