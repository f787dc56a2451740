#include "client/progress.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/job_text.h"
#include "client/text.h"

namespace vitscale {

void ProgressRate::Add(const v1::StepRecord& record) {
  if (!points_.empty() && record.step() <= points_.back().step) {
    points_.clear();  // a roll-back: the old rate means nothing
  }
  points_.push_back({record.step(), record.images(), record.step_seconds()});
  if (points_.size() > kWindow + 1) points_.pop_front();
}

double ProgressRate::WindowSeconds() const {
  double seconds = 0;
  for (size_t i = 1; i < points_.size(); ++i) seconds += points_[i].step_seconds;
  return seconds;
}

double ProgressRate::images_per_second() const {
  const double seconds = WindowSeconds();
  if (points_.size() < 2 || seconds <= 0) return 0;
  // Steps may be missing between two records: count records, not the distance.
  double images = 0;
  for (size_t i = 1; i < points_.size(); ++i) {
    const int64_t steps = points_[i].step - points_[i - 1].step;
    images +=
        static_cast<double>(points_[i].images - points_[i - 1].images) / static_cast<double>(steps);
  }
  return images / seconds;
}

std::optional<absl::Duration> ProgressRate::Remaining(int64_t total_steps) const {
  const double seconds = WindowSeconds();
  if (points_.size() < 2 || seconds <= 0) return std::nullopt;
  const double per_step = seconds / static_cast<double>(points_.size() - 1);
  return absl::Seconds(
      per_step * static_cast<double>(std::max<int64_t>(0, total_steps - points_.back().step)));
}

std::string ProgressBar(double share, int width) {
  static constexpr std::array<const char*, 8> kEighths = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const double clamped = std::min(1.0, std::max(0.0, share));
  const int eighths = static_cast<int>(clamped * width * 8);
  std::string bar;
  for (int cell = 0; cell < width; ++cell) {
    const int filled = std::clamp(eighths - cell * 8, 0, 8);
    absl::StrAppend(&bar, filled == 8 ? "█" : filled == 0 ? "·" : kEighths[filled]);
  }
  return bar;
}

std::string ProgressLine(const ProgressView& view, int columns, bool color) {
  constexpr int kBarWidth = 24;
  const v1::Job& job = view.job;
  const int64_t total = job.total_steps();
  // A branch has its own steps to do, not those of the run that it left.
  const int64_t first = job.first_step(), own = total - first;
  const double share =
      own > 0 ? static_cast<double>(std::max(job.step(), first) - first) / static_cast<double>(own)
              : 0;
  std::string head = absl::StrCat(Bold(Shorten(job.spec().name(), 20), color), " ",
                                  Coloured(StateWord(job.state()), color));
  std::vector<std::string> parts;
  if (job.spec().kind() == v1::JOB_KIND_EVALUATE) {
    parts.push_back(
        absl::StrCat(job.last_evals_size(), "/", job.spec().evals_size(), " evaluations"));
  } else if (total > 0) {  // else its length is not known yet
    parts = {absl::StrCat(ProgressBar(share, kBarWidth),
                          absl::StrFormat(" %3d %%", static_cast<int>(share * 100))),
             absl::StrCat(job.step(), "/", total)};
  }
  if (job.has_last_step())
    parts.push_back(absl::StrCat("loss ", Significant(job.last_step().loss(), 4)));
  if (!view.note.empty()) {
    parts.push_back(view.note);
  } else if (job.state() != v1::JOB_STATE_RUNNING) {
    if (!job.message().empty()) parts.push_back(Shorten(job.message(), 60));
  } else {
    if (view.rate.images_per_second() > 0) {
      parts.push_back(absl::StrCat(Thousands(static_cast<int64_t>(view.rate.images_per_second())),
                                   " images/s"));
    }
    if (const auto remaining = view.rate.Remaining(total); remaining) {
      parts.push_back(absl::StrCat("ETA ", Age(*remaining)));
    }
  }
  for (const v1::EvalRecord& eval : job.last_evals()) {
    parts.push_back(absl::StrCat(eval.name(), " ", EvalValues(eval)));
  }
  std::string line = head;
  for (const std::string& part : parts) {
    if (DisplayWidth(line) + 2 + DisplayWidth(part) > columns - 1) break;
    absl::StrAppend(&line, "  ", part);
  }
  return line;
}

}  // namespace vitscale
