#include "worker/agent/card_watch.h"

#include <algorithm>
#include <utility>

namespace vitscale::agent {
namespace {

// Numbers that move by less are not worth a message.
constexpr int64_t kRoundBytes = int64_t{16} << 20;

int64_t Rounded(int64_t bytes) { return bytes / kRoundBytes * kRoundBytes; }

}  // namespace

link::DeviceUse DeviceUseOf(const absl::StatusOr<Card>& card, int64_t trainer,
                            const std::function<int64_t(int64_t pid)>& group_of) {
  link::DeviceUse use;
  if (!card.ok()) {
    use.dirty = std::string(card.status().message());
    return use;
  }
  use.used_bytes = Rounded(card->used_bytes);
  use.free_bytes = Rounded(card->free_bytes);
  use.dirty = DirtyReason(*card);
  const int all = static_cast<int>(card->processes.size());
  const int own = static_cast<int>(std::count_if(
      card->processes.begin(), card->processes.end(),
      [&](const CardProcess& process) { return trainer > 0 && group_of(process.pid) == trainer; }));
  use.foreign_processes = trainer > 0 && own == 0 ? 0 : all - own;
  return use;
}

CardWatch::CardWatch(std::unique_ptr<Nvml> nvml, int card, absl::Duration interval,
                     std::function<void(const absl::StatusOr<Card>&)> seen)
    : nvml_(std::move(nvml)),
      card_(card),
      interval_(interval),
      seen_(std::move(seen)),
      thread_([this] { Run(); }) {}

CardWatch::~CardWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void CardWatch::Run() {
  while (true) {
    seen_(nvml_->Read(card_));
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval_)) return;
  }
}

}  // namespace vitscale::agent
