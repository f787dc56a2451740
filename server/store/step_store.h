// steps.db: every step's scalars, evaluations and log lines, exactly; own file and thread, batches
// of at most a second, so that a flood of steps never delays a transition of control.db.
//
// A step is keyed by (job, step): a greater generation replaces it, a lower one is refused. Records
// of a spool are taken once: (incarnation, number) up to the committed mark are skipped. Log lines
// are kept up to a number per job.

#ifndef SERVER_STORE_STEP_STORE_H_
#define SERVER_STORE_STEP_STORE_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/core/events.h"
#include "server/store/sqlite.h"

namespace vitscale {

struct StepStoreOptions {
  absl::Duration batch = absl::Milliseconds(300);  // from the first waiting record to its commit
  int64_t log_lines_max = 100000;                  // per job
  int64_t waiting_max = 200000;                    // records; see Full
  absl::Duration retry = absl::Seconds(1);
};

class StepStore {
 public:
  static absl::StatusOr<std::unique_ptr<StepStore>> Open(const std::string& path,
                                                         StepStoreOptions options = {});
  ~StepStore();

  // What one commit changed of one job.
  struct JobChange {
    StepsEvent steps;
    int64_t stored = 0;  // step records
    bool logs = false;
  };
  struct Callbacks {
    std::function<void(std::map<std::string, JobChange>)>
        changed;  // by job; from the writer thread
  };
  void Start(Callbacks callbacks);
  void Stop();  // commits what is waiting, if the disk lets it

  // Records of a worker's spool, in order; those of other kinds only move the mark. `done` runs on
  // the writer thread after the commit.
  void Add(const std::string& worker_id, std::vector<v1::SpooledRecord> records,
           std::function<void()> done);
  // A line of the coordinator about a job.
  void AddLog(const std::string& job_id, v1::LogLine line);
  // So many records wait that senders should wait too.
  bool Full();

  // ---- reads; any thread ------------------------------------------------------
  absl::StatusOr<std::vector<v1::StepRecord>> Steps(const std::string& job_id, int64_t after,
                                                    int limit);
  absl::StatusOr<std::vector<v1::EvalRecord>> Evals(const std::string& job_id);
  // Lines after `after`; of one rank, or of all for -1; not before `since`.
  absl::StatusOr<std::vector<v1::LogLine>> Logs(const std::string& job_id, int64_t after, int rank,
                                                absl::Time since, int limit);
  // Sequence before the last `tail` lines.
  absl::StatusOr<int64_t> LogStart(const std::string& job_id, int rank, int tail);
  absl::StatusOr<int64_t> LastStep(const std::string& job_id);
  // The record with the greatest generation, and of these the greatest step; step 0 if there is
  // none.
  absl::StatusOr<v1::StepRecord> Newest(const std::string& job_id);

 private:
  struct Waiting {
    std::string worker_id;
    std::vector<v1::SpooledRecord> records;
    std::function<void()> done;
  };
  explicit StepStore(StepStoreOptions options) : options_(options) {}
  void Loop();
  absl::Status TryCommit(const std::vector<Waiting>& batch,
                         std::map<std::string, JobChange>* changes);
  absl::Status Write(const std::string& worker_id, const v1::SpooledRecord& record,
                     std::map<std::string, JobChange>* changes);
  absl::Status WriteStep(const v1::SpooledRecord& record, JobChange* change);
  absl::Status WriteEval(const v1::SpooledRecord& record, JobChange* change);
  absl::Status WriteLog(const std::string& worker_id, const std::string& job_id, v1::LogLine line);
  absl::StatusOr<int64_t> NextLine(const std::string& job_id);
  absl::StatusOr<int64_t> Mark(const std::string& incarnation);

  const StepStoreOptions options_;
  std::unique_ptr<Database> writer_;
  std::map<std::string, int64_t> marks_;       // of the transaction under way and before
  std::map<std::string, int64_t> next_lines_;  // by job
  Callbacks callbacks_;

  std::mutex read_mutex_;
  std::unique_ptr<Database> reader_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Waiting> queue_;
  int64_t waiting_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace vitscale

#endif  // SERVER_STORE_STEP_STORE_H_
