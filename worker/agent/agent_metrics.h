// What the agent's /metrics shows: its trainer (vitscale_train_*, vitscale_allreduce_*,
// vitscale_data_*, vitscale_checkpoint_*), itself (vitscale_worker_*) and its process (process_*).
//
// Series of a job are labelled with job_name and rank and go with the job; nothing grows with the
// number of jobs. Totals of a trainer start again at zero with the next one, as counters do after
// any restart.

#ifndef WORKER_AGENT_AGENT_METRICS_H_
#define WORKER_AGENT_AGENT_METRICS_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "worker/link/messages.h"

namespace vitscale::agent {

// Own values of the agent.
struct WorkerGauges {
  bool connected = false;  // the coordinator has answered in this session
  int64_t term = 0;
  double ownership_seconds = 0;  // until the orphan window ends; 0: no coordinator was heard yet
  int64_t spool_records = 0;
  int64_t spool_bytes = 0;
  int64_t spool_dropped = 0;
  link::Stage stage = link::Stage::kIdle;
  link::Precision precision = link::Precision::kUnspecified;  // of the trainer, once it is known
  std::optional<link::DeviceUse> device_use;                  // of a card
};

// The worker's card. FLOPs per second at most; 0: unknown, then there is no share of it.
struct CardLimits {
  int64_t memory_bytes = 0;
  double bf16_flops_per_second = 0, f32_flops_per_second = 0;
};

// Thread-safe: the loop writes, /metrics reads.
class AgentMetrics : public prometheus::Collectable {
 public:
  // `card`: none for a CPU.
  AgentMetrics(std::string worker_id, std::string device,
               std::optional<CardLimits> card = std::nullopt);

  // A trainer starts: its series begin anew under these labels.
  void TrainerStarted(const std::string& job_name, int rank);
  void TrainerExited(int exit_code);
  // The job has left: no training series any more.
  void Clear();
  void Update(const link::TrainerMetrics& metrics);
  void AddStep(const link::StepRecord& record);
  void SetWorker(const WorkerGauges& gauges);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  // Seconds of one phase of all steps, as a histogram.
  struct StepTimes {
    std::vector<uint64_t> buckets;
    uint64_t count = 0;
    double sum = 0;
  };
  using Families = std::vector<prometheus::MetricFamily>;

  void CollectTraining(Families& families) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectStep(const link::StepRecord& step, Families& families) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectStepTimes(Families& families) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectWorker(Families& families) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectCard(Families& families) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double PeakFlops() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string worker_id_;
  const std::string device_;
  const std::optional<CardLimits> card_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::string> job_labels_ ABSL_GUARDED_BY(mutex_);
  std::optional<link::TrainerMetrics> trainer_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, StepTimes> step_times_
      ABSL_GUARDED_BY(mutex_);                            // by phase; "all" is the whole step
  std::map<int, int64_t> exits_ ABSL_GUARDED_BY(mutex_);  // by exit code
  int64_t starts_ ABSL_GUARDED_BY(mutex_) = 0;
  WorkerGauges worker_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_AGENT_METRICS_H_
