// The one line of `vitscale watch` on a terminal, and the numbers in it. No I/O, no clock.

#ifndef CLIENT_PROGRESS_H_
#define CLIENT_PROGRESS_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale {

// Rates over the newest steps, from the records alone.
class ProgressRate {
 public:
  void Add(const v1::StepRecord& record);
  // Images per second of wall time over the last kWindow steps; 0: not known yet.
  double images_per_second() const;
  // Until `total_steps`; nullopt: not known yet.
  std::optional<absl::Duration> Remaining(int64_t total_steps) const;

 private:
  static constexpr size_t kWindow = 50;
  struct Point {
    int64_t step, images;
    double step_seconds;
  };
  double WindowSeconds() const;  // of all points but the first
  std::deque<Point> points_;
};

// A bar of `width` cells filled to `share` in eighths of a cell.
std::string ProgressBar(double share, int width);

struct ProgressView {
  v1::Job job;
  ProgressRate rate;
  std::string note;  // "coordinator away, trying again"
};

// "fashion 3f2k… RUNNING ████▌     46 %  1076/2340  loss 0.2713  9,876 images/s  ETA 2m05s  val
// top1 86.1 %", at most `columns` wide: parts fall away from the right when it is narrow.
std::string ProgressLine(const ProgressView& view, int columns, bool color);

}  // namespace vitscale

#endif  // CLIENT_PROGRESS_H_
