// The coordinator's part for vitscale-train: no coordinator, one generation, ranks by flags. A pure
// reaction to reports: PREPARE, FORM, GO from the newest valid checkpoint, and the end.
//
// A lost rank ends every process with exit code 82; the next start goes on from the newest valid
// checkpoint.

#ifndef WORKER_TRAINER_STANDALONE_H_
#define WORKER_TRAINER_STANDALONE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/files.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/config/job_config.h"
#include "worker/link/messages.h"
#include "worker/trainer/shell.h"

namespace vitscale {

struct StandaloneOptions {
  std::string job_id;      // names the checkpoint folder
  std::string spec_bytes;  // canonical spec, with as many workers as world_size
  int64_t attempt = 1;     // above all that are in the checkpoint folder: FindStartPoint
  int rank = 0;
  int world_size = 1;
  // Where rank 0 listens: "host:port", or a file into which rank 0 writes it (on a file system that
  // all share).
  std::string rendezvous;
  absl::Duration rendezvous_timeout = absl::Minutes(2);
  link::TrainerSetup setup;
};

class StandaloneDriver : public ReportSink {
 public:
  // `post` feeds the shell. `on_record`: steps, evaluations, checkpoints and events as they are
  // committed.
  StandaloneDriver(StandaloneOptions options, std::function<void(CoreEvent)> post,
                   std::function<void(const link::SpooledRecord&)> on_record);

  void Start();
  void Send(link::TrainerReport report) override;
  // Any thread: a checkpoint at the next agreed step, then the end with code 75. The second time:
  // the end at once.
  void RequestStop();
  // What main returns, given what the shell returned.
  int ExitCode(int shell_code) const;
  std::string error() const;
  const link::ObservedState& observed() const { return observed_; }  // after the end

 private:
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Order(link::Stage stage, bool kill = false) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::string> RendezvousAddress() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const StandaloneOptions options_;
  const std::function<void(CoreEvent)> post_;
  const std::function<void(const link::SpooledRecord&)> on_record_;
  link::ObservedState observed_;

  mutable absl::Mutex mutex_;
  link::Stage stage_ ABSL_GUARDED_BY(mutex_) = link::Stage::kIdle;  // ordered
  std::string rank0_address_ ABSL_GUARDED_BY(mutex_);
  std::optional<link::Source> source_ ABSL_GUARDED_BY(mutex_);
  int stops_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<int> exit_code_ ABSL_GUARDED_BY(mutex_);
  std::string error_ ABSL_GUARDED_BY(mutex_);
};

// Where a start of a job stands.
struct StartPoint {
  int64_t attempt = 1;                        // above all in the job's folder, complete or not
  std::optional<CheckpointEntry> checkpoint;  // the newest usable one: the run goes on from it
};

// The folder may be missing. Errors name checkpoint.dir.
absl::StatusOr<StartPoint> FindStartPoint(FileSystem& fs,
                                          const std::vector<std::string>& checkpoint_roots,
                                          const std::string& checkpoint_dir,
                                          const std::string& job_id);

// A stable id for a job that no coordinator named: 12 characters made from its name.
std::string StandaloneJobId(const std::string& job_name);

}  // namespace vitscale

#endif  // WORKER_TRAINER_STANDALONE_H_
