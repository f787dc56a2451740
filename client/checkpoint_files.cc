#include "client/checkpoint_files.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"

namespace vitscale {

absl::StatusOr<std::string> AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::string absolute = std::filesystem::absolute(path, error).lexically_normal().string();
  if (error || path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", path, "\" is no path"));
  }
  return absolute;
}

absl::StatusOr<CheckpointFolder> FindCheckpoint(const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(const std::string absolute, AbsolutePath(path));
  return FindCheckpointFolder(PosixFileSystem(), absolute);
}

PercentLine::~PercentLine() {
  if (shown_ < 0) return;
  context_.err << "\r" << std::string(verb_.size() + 6, ' ') << "\r" << std::flush;
}

std::function<void(int64_t, int64_t)> PercentLine::Callback() {
  if (!context_.out_is_terminal) return nullptr;
  return [this](int64_t done, int64_t total) {
    constexpr int64_t kWorthALine = int64_t{64} << 20;
    const int percent = total > 0 ? static_cast<int>(100.0 * done / total) : 100;
    if (total < kWorthALine || percent == shown_) return;
    shown_ = percent;
    context_.err << "\r" << verb_ << absl::StrCat(percent < 10 ? "   " : "  ", percent, " %")
                 << std::flush;
  };
}

}  // namespace vitscale
