// Asks a card's driver what is going on there, again and again, on a thread of its own: a driver
// that hangs must not stop the agent's loop, nor its end, nor let the card be taken for clean.

#ifndef WORKER_AGENT_CARD_WATCH_H_
#define WORKER_AGENT_CARD_WATCH_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/card/nvml.h"
#include "worker/link/messages.h"

namespace vitscale::agent {

// What the coordinator is told of a card: its numbers as they are, and why it is dirty if `trainer`
// is not on it. `trainer`: the process group of the own trainer, whose processes are not foreign;
// 0: none. A card that cannot be read is dirty: nobody knows that it is free. Within a container
// the driver's process ids are not ours: then a trainer is not found among them, and none counts as
// foreign while it runs.
link::DeviceUse DeviceUseOf(const absl::StatusOr<Card>& card, int64_t trainer,
                            const std::function<int64_t(int64_t pid)>& group_of);

struct CardWatchOptions {
  int card = 0;
  std::string uuid;  // of the card that the worker is registered with
  absl::Duration interval = absl::Seconds(2);
  absl::Duration patience = absl::Seconds(30);  // with a driver that does not answer
};

class CardWatch {
 public:
  using Seen = std::function<void(const absl::StatusOr<Card>&)>;

  // `seen` is called on the watch's thread: at once, then every `interval`. UNAVAILABLE, every
  // `patience`, while the driver does not answer; FAILED_PRECONDITION while another card has the
  // place of the one with that uuid, as after one that fell off the bus.
  CardWatch(std::unique_ptr<Nvml> nvml, CardWatchOptions options, Seen seen);
  // Waits for `seen`, not for a driver that hangs.
  ~CardWatch();

 private:
  // Shared with the thread that asks the driver, for that one may never come back.
  struct Reading;

  static void AnswerQuestions(const std::shared_ptr<Reading>& reading);
  void Run();
  std::optional<absl::StatusOr<Card>> AwaitReading();
  absl::StatusOr<Card> Checked(absl::StatusOr<Card> card) const;

  const CardWatchOptions options_;
  const Seen seen_;
  const std::shared_ptr<Reading> reading_;
  std::thread reader_, watch_;
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_CARD_WATCH_H_
