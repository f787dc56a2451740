// The thread around the core: takes events from a queue, hands operations to a step thread, sends
// reports. Used by the child of an agent (orders from a socket) and by vitscale-train (orders from
// StandaloneDriver).

#ifndef WORKER_TRAINER_SHELL_H_
#define WORKER_TRAINER_SHELL_H_

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/base/clock.h"
#include "kernels/base/files.h"
#include "worker/link/messages.h"
#include "worker/trainer/core/core.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {

// Where reports go.
class ReportSink {
 public:
  virtual ~ReportSink() = default;
  // Called from the thread of Run. Must not block for long.
  virtual void Send(link::TrainerReport report) = 0;
  // Before the end: waits until everything is on its way, at most `timeout`.
  virtual void Flush(absl::Duration timeout) {}
};

struct ShellOptions {
  ReportSink* sink = nullptr;
  int data_port = 0;  // see EngineOptions
  int64_t bucket_bytes = 0;
  Transport transport = Transport::kAuto;
  uint64_t pretended_host = 0;
  bool by_hand = false;
  Clock* clock = &RealClock();
  FileSystem* fs = &PosixFileSystem();
  std::function<void(int64_t step, uint64_t samples_hash)> on_exchange;  // see EngineOptions
  std::function<void(const Engine& engine)> on_prepared;                 // on the thread of Run
  bool log_error = true;  // false: whoever calls error() tells it
};

class TrainerShell {
 public:
  explicit TrainerShell(ShellOptions options);
  ~TrainerShell();

  // Any thread.
  void Post(CoreEvent event);
  // Until the core exits; returns the exit code. Once.
  int Run();
  // Why it exited; empty: in good order. After Run.
  const std::string& error() const { return error_; }

 private:
  CoreEvent NextEvent(absl::Time deadline);
  void Carry(Action action);
  void RunOperations();
  void ReportIfDue(bool force);
  link::TrainerMetrics Metrics() const;
  void Complete(link::SpooledRecord& record) const;

  const ShellOptions options_;
  TrainerCore core_;
  std::unique_ptr<Engine> engine_;
  std::optional<int> exit_code_;
  std::string error_;

  // Reports.
  link::ObservedState reported_;
  std::vector<link::SpooledRecord> records_;
  bool urgent_ = true;  // something other than progress changed
  absl::Time last_report_;
  bool prepared_told_ = false;

  absl::Mutex mutex_;
  std::deque<CoreEvent> events_ ABSL_GUARDED_BY(mutex_);
  std::optional<Action> operation_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread step_thread_;
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_SHELL_H_
