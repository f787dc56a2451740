#include "worker/agent/card_watch.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/await.h"

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
      card->processes.begin(), card->processes.end(), [&](const CardProcess& process) {
        return trainer > 0 && process.pid > 0 && group_of(process.pid) == trainer;
      }));
  use.foreign_processes = trainer > 0 && own == 0 ? 0 : all - own;
  return use;
}

struct CardWatch::Reading {
  std::unique_ptr<Nvml> nvml;
  int card = 0;
  absl::Mutex mutex;
  bool wanted ABSL_GUARDED_BY(mutex) = false;
  bool asking ABSL_GUARDED_BY(mutex) = false;  // the driver, without the mutex
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  std::optional<absl::StatusOr<Card>> result ABSL_GUARDED_BY(mutex);
};

CardWatch::CardWatch(std::unique_ptr<Nvml> nvml, CardWatchOptions options, Seen seen)
    : options_(std::move(options)), seen_(std::move(seen)), reading_(std::make_shared<Reading>()) {
  reading_->nvml = std::move(nvml);
  reading_->card = options_.card;
  reader_ = std::thread([reading = reading_] { AnswerQuestions(reading); });
  watch_ = std::thread([this] { Run(); });
}

CardWatch::~CardWatch() {
  bool hangs = false;
  {
    absl::MutexLock lock(&reading_->mutex);
    reading_->stopping = true;
    const auto idle = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !reading_->asking; };
    const absl::Duration farewell = std::min(options_.patience, absl::Seconds(1));
    hangs = !AwaitFor(reading_->mutex, absl::Condition(&idle), farewell);
  }
  watch_.join();
  hangs ? reader_.detach() : reader_.join();
}

void CardWatch::AnswerQuestions(const std::shared_ptr<Reading>& reading) {
  absl::MutexLock lock(&reading->mutex);
  const auto ready = [&reading]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return reading->wanted || reading->stopping;
  };
  while (true) {
    reading->mutex.Await(absl::Condition(&ready));
    if (reading->stopping) return;
    reading->wanted = false;
    reading->asking = true;
    reading->mutex.Unlock();
    absl::StatusOr<Card> card = reading->nvml->Read(reading->card);
    reading->mutex.Lock();
    reading->asking = false;
    reading->result = std::move(card);
  }
}

// None if the watch ends first.
std::optional<absl::StatusOr<Card>> CardWatch::AwaitReading() {
  while (true) {
    {
      absl::MutexLock lock(&reading_->mutex);
      const auto ready = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        return reading_->result.has_value() || reading_->stopping;
      };
      const bool done = AwaitFor(reading_->mutex, absl::Condition(&ready), options_.patience);
      if (reading_->stopping) return std::nullopt;
      if (done) return std::exchange(reading_->result, std::nullopt);
    }
    seen_(absl::UnavailableError(absl::StrCat("card ", options_.card,
                                              ": its driver has not answered for ",
                                              absl::FormatDuration(options_.patience))));
  }
}

absl::StatusOr<Card> CardWatch::Checked(absl::StatusOr<Card> card) const {
  if (!card.ok() || card->uuid == options_.uuid) return card;
  return absl::FailedPreconditionError(
      absl::StrCat("card ", options_.card, " is another one by now: ", card->uuid,
                   ", this worker is registered with ", options_.uuid, "; start it again"));
}

void CardWatch::Run() {
  while (true) {
    {
      absl::MutexLock lock(&reading_->mutex);
      reading_->wanted = true;
    }
    const std::optional<absl::StatusOr<Card>> card = AwaitReading();
    if (!card) return;
    seen_(Checked(*card));
    absl::MutexLock lock(&reading_->mutex);
    if (AwaitFor(reading_->mutex, absl::Condition(&reading_->stopping), options_.interval)) return;
  }
}

}  // namespace vitscale::agent
