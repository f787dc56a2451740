// Whole trainers (core, shell, engine, shared memory or Gloo, files) as threads of a test, and the
// coordinator's part in a few lines.

#ifndef TESTS_WORKER_TRAINER_TEST_GANG_H_
#define TESTS_WORKER_TRAINER_TEST_GANG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "worker/config/job_config.h"
#include "worker/trainer/shell.h"

namespace vitscale {

// A job file of a tiny model on synthetic images. Lines of `more` replace or add top-level keys.
std::string TinyJob(const std::map<std::string, std::string>& more = {});

class TestGang {
 public:
  struct Options {
    std::string job;  // text of the job file; workers are set to `ranks`
    std::string job_id = "job000000000";
    int ranks = 1;
    std::string checkpoint_root;
    std::vector<std::string> checkpoint_roots;  // by rank; empty: the same for all
    std::string data_root = "/nonexistent";
    std::map<int, std::string> faults;  // by rank
    std::map<int, uint64_t> hosts;      // by rank: those of different numbers pretend to share none
    int64_t bucket_bytes = 0;
    int64_t attempt = 1;
    std::string device;  // "cuda": cuda<rank>; "cuda0" and such of all; empty: a CPU
    double rendezvous_seconds = 20;
    int recoveries_max = 0;                         // new generations in place after a break
    std::function<void(int64_t step)> on_exchange;  // when rank 0 has the records of all ranks
    bool orphan_after_break = false;  // no coordinator any more: no new generation, no exit order
  };

  struct Result {
    int exit_code = -1;
    std::string error;
    link::ObservedState observed;  // last report
    std::vector<link::SpooledRecord> records;
    link::TrainerMetrics metrics;  // of the last report
  };

  explicit TestGang(Options options);
  ~TestGang();

  // Until all have exited. A gang that finishes is told to leave; one that breaks forms the next
  // generation, or is told to leave.
  std::vector<Result> Run();
  // Any time: the intent of the job from now on.
  void SetIntent(link::Intent intent);

  int64_t generation() const;
  // Versions of all ranks when each generation broke.
  const std::vector<std::vector<link::StateVersion>>& broken_versions() const {
    return broken_versions_;
  }
  const std::map<int64_t, uint64_t>& samples() const { return samples_; }

 private:
  class Sink;
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OrderAll(link::Stage stage) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnReport(int rank, link::TrainerReport report);

  const Options options_;
  std::string spec_bytes_;
  std::vector<std::unique_ptr<Sink>> sinks_;
  std::vector<std::unique_ptr<TrainerShell>> shells_;
  std::vector<std::vector<link::StateVersion>> broken_versions_;
  std::map<int64_t, uint64_t> samples_;

  mutable absl::Mutex mutex_;
  std::vector<Result> results_ ABSL_GUARDED_BY(mutex_);
  link::Stage stage_ ABSL_GUARDED_BY(mutex_) = link::Stage::kIdle;
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  link::Source source_ ABSL_GUARDED_BY(mutex_);
  link::Intent intent_ ABSL_GUARDED_BY(mutex_) = link::Intent::kRun;
};

// What a gang with these options comes to, one result a rank.
std::vector<TestGang::Result> RunGang(TestGang::Options options);

// Records of one kind, in order.
template <typename T>
std::vector<T> RecordsOf(const TestGang::Result& result) {
  std::vector<T> found;
  for (const link::SpooledRecord& record : result.records) {
    if (const T* value = std::get_if<T>(&record.record)) found.push_back(*value);
  }
  return found;
}

// Every tensor of a checkpoint, by name.
std::map<std::string, std::string> ReadCheckpoint(const std::string& root, const std::string& id);

}  // namespace vitscale

#endif  // TESTS_WORKER_TRAINER_TEST_GANG_H_
