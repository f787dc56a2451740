// The agent's shell: one loop that feeds AgentCore with what happens and carries out what it says.
//
// The loop runs in the thread that calls Run and starts the trainers itself: it lives as long as
// the agent, which the trainers' parent-death signal needs. gRPC's threads only post to the
// EventQueue.

#ifndef WORKER_AGENT_AGENT_H_
#define WORKER_AGENT_AGENT_H_

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "kernels/base/clock.h"
#include "kernels/base/random.h"
#include "kernels/base/unique_fd.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/coordinator_link.h"
#include "worker/agent/core/agent_core.h"
#include "worker/agent/event_queue.h"
#include "worker/agent/line_splitter.h"
#include "worker/agent/spool.h"
#include "worker/agent/trainer_process.h"
#include "worker/card/nvml.h"
#include "worker/link/channel.h"

namespace vitscale::agent {

struct AgentConfig {
  AgentOptions core;
  std::string trainer_program;  // absolute path of vitscale-trainer
  int lock_fd = -1;             // the device lock, inherited by trainers
  // One line for people when the state changes (systemd's STATUS).
  std::function<void(const std::string&)> status = [](const std::string&) {};
  absl::Duration watchdog_interval =
      absl::InfiniteDuration();  // `watchdog` is called at least so often
  std::function<void()> watchdog = [] {};
};

class Agent {
 public:
  // All references outlive the agent. `coordinator` reports into `queue` (see Sink).
  Agent(AgentConfig config, Clock& clock, Random& jitter, Spool& spool, AgentMetrics& metrics,
        EventQueue& queue);

  // Where the coordinator link reports to; any thread.
  CoordinatorSink Sink();

  // What the driver says of the card by now; any thread.
  void SeeCard(const absl::StatusOr<Card>& card);

  // Until the core says exit; returns the exit code. `stop_fd` is a signalfd: each signal read from
  // it is a ShutdownRequested.
  int Run(CoordinatorLink& coordinator, int stop_fd);

 private:
  // What belongs to one trainer process.
  struct Running {
    int64_t number;
    TrainerProcess process;
    link::FrameReader frames;
    std::string orders;  // framed, not yet written
    LineSplitter output, error;
    bool reaped = false;
    bool group_empty = false;
  };

  void Feed(Event event);
  void Execute(const Register& action);
  void Execute(const OpenSession& action);
  void Execute(const CloseSession& action);
  void Execute(const SendMessage& action);
  void Execute(const StartTrainer& action);
  void Execute(const SendOrder& action);
  void Execute(const KillTrainer& action);
  void Execute(const SpoolRecords& action);
  void Execute(const AcknowledgeSpool& action);
  void Execute(const LogText& action);
  void Execute(const ExitAgent& action);

  void SendIfPossible();
  void TellSpool();
  void Wait(int stop_fd);
  void ReadSignals(int stop_fd);
  void ReadLink();
  void EndLink(bool garbage, const std::string& reason);
  void WriteOrders();
  void ReadOutput(int fd, LineSplitter& lines, bool& open);
  void ReadAllOutput();
  void PostLines(const std::vector<std::string>& lines);
  void CheckProcess();
  void TakeReport(const link::TrainerReport& report);
  void ShowState();
  absl::Duration UntilNext() const;

  const AgentConfig config_;
  Clock& clock_;
  Spool& spool_;
  AgentMetrics& metrics_;
  EventQueue& queue_;
  AgentCore core_;
  CoordinatorLink* coordinator_ = nullptr;
  std::deque<Event> events_;
  std::optional<SendMessage> unsent_message_;  // the newest, while a write is going on
  std::optional<Running> trainer_;
  bool output_open_ = false, error_open_ = false;
  std::string shown_status_;
  bool disk_failed_ = false;
  absl::Time next_watchdog_ = absl::InfinitePast();
  std::optional<ExitAgent> exit_;
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_AGENT_H_
