// What the coordinator's /metrics shows.
//
// Counters follow what was committed, gauges what is; every label has few values (states, reason
// codes, methods), so the number of series does not grow with the number of jobs or their history.
// Names: field conventions of prometheus.io/docs/practices/naming (base units, _total on counters).

#ifndef SERVER_METRICS_COORDINATOR_METRICS_H_
#define SERVER_METRICS_COORDINATOR_METRICS_H_

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "server/core/events.h"

namespace vitscale {

// Thread-safe.
class CoordinatorMetrics : public prometheus::Collectable {
 public:
  explicit CoordinatorMetrics(int64_t term);

  // Jobs found in the store at start: they count as present, not as new.
  void Load(const std::vector<JobRow>& jobs);
  // A transaction is durable: transitions, queue waits, preemptions, recoveries, checkpoints,
  // goodput.
  void Committed(const Changes& changes, absl::Duration took);
  // All workers as they are now, whole.
  void SetWorkers(const std::vector<v1::Worker>& workers);
  // The store refuses (false) or takes mutations.
  void SetWritable(bool writable);
  // One decision round of the core.
  void SchedulerCycle(absl::Duration took);
  // Records written to steps.db.
  void StepsStored(int64_t steps);
  // One call was answered: "vitscale.v1.ControlService", "SubmitJob", "OK".
  void RpcHandled(const std::string& service, const std::string& method, const std::string& code,
                  absl::Duration took);

  std::vector<prometheus::MetricFamily> Collect() const override;
  // The same in Prometheus' text format.
  std::string Text() const;

 private:
  struct Histogram {
    std::vector<uint64_t> buckets;
    uint64_t count = 0;
    double sum = 0;
  };
  struct JobSeen {
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
    int64_t attempt = 0;
    v1::Goodput goodput;
    int64_t recoveries = 0;
    std::string name;
    std::map<std::pair<std::string, std::string>, double> measured;  // by evaluation and value
  };
  using Labels = std::map<std::string, std::string>;

  void SeeJob(const JobRow& row, bool at_start) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SeeEvent(const v1::Event& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddGoodput(const v1::Goodput& before, const v1::Goodput& after)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Observe(Histogram& histogram, double seconds);
  static prometheus::MetricFamily HistogramFamily(
      const std::string& name, const std::string& help,
      const std::vector<std::pair<Labels, const Histogram*>>& series);
  void CollectJobs(std::vector<prometheus::MetricFamily>& families) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectEvaluations(std::vector<prometheus::MetricFamily>& families) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectWorkers(std::vector<prometheus::MetricFamily>& families) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectControl(std::vector<prometheus::MetricFamily>& families) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t term_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, JobSeen> unfinished_ ABSL_GUARDED_BY(mutex_);
  std::map<v1::JobState, int64_t> finished_ ABSL_GUARDED_BY(mutex_);
  std::map<std::tuple<std::string, std::string, std::string>, int64_t> transitions_
      ABSL_GUARDED_BY(mutex_);                                          // from, to, reason
  std::map<std::string, int64_t> preemptions_ ABSL_GUARDED_BY(mutex_);  // by reason
  std::map<std::string, int64_t> broken_ ABSL_GUARDED_BY(mutex_);       // generations, by reason
  std::map<std::string, double> goodput_ ABSL_GUARDED_BY(mutex_);       // seconds by state
  int64_t recoveries_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t checkpoints_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t steps_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writable_ ABSL_GUARDED_BY(mutex_) = true;
  std::vector<v1::Worker> workers_ ABSL_GUARDED_BY(mutex_);
  Histogram queue_wait_ ABSL_GUARDED_BY(mutex_);
  Histogram store_commit_ ABSL_GUARDED_BY(mutex_);
  Histogram scheduler_cycle_ ABSL_GUARDED_BY(mutex_);
  std::map<std::tuple<std::string, std::string, std::string>, int64_t> handled_
      ABSL_GUARDED_BY(mutex_);  // service, method, code
  std::map<std::pair<std::string, std::string>, Histogram> handling_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vitscale

#endif  // SERVER_METRICS_COORDINATOR_METRICS_H_
