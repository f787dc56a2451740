// What vitscale-train shows: a progress bar on a terminal, plain lines otherwise, and a CSV of
// every step.

#ifndef WORKER_TRAINER_TRAIN_OUTPUT_H_
#define WORKER_TRAINER_TRAIN_OUTPUT_H_

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/link/messages.h"

namespace vitscale {

class TrainOutput {
 public:
  // `bar`: redraw one line on standard error; else a plain line every few seconds.
  TrainOutput(bool bar, bool quiet);
  ~TrainOutput();

  // Header:
  // step,images,loss,gradient_norm,learning_rate,parameter_norm,update_norm,train_accuracy,step_seconds,
  // skipped,samples; floats with 17 digits, so that equal text is equal bits.
  // A file of an earlier start goes on: the rows before the first step of this start stay. Errors:
  // it cannot be written, or holds something else (INVALID_ARGUMENT; it stays as it was).
  absl::Status OpenCsv(const std::string& path);
  // After the end: the first error of writing, after which nothing more was written.
  absl::Status CloseCsv();
  void SetTotal(int64_t total_steps) { total_steps_ = total_steps; }
  int64_t total_steps() const { return total_steps_; }

  void OnRecord(const link::SpooledRecord& record);
  // The hash of the samples of all ranks; comes before the record of its step.
  void OnSamples(int64_t step, uint64_t hash);
  // Ends the bar's line.
  void Finish();

  const std::optional<link::StepRecord>& last_step() const { return last_; }
  const std::map<std::string, link::EvalRecord>& evals() const { return evals_; }
  // "backward 64.0 %, forward 31.5 %, …", of all steps but the first, which warms up; empty: none.
  std::string PhasesText() const;

 private:
  void Show(const link::StepRecord& record);
  void Line(const std::string& text);
  void WriteRow(const link::StepRecord& record, uint64_t samples);
  absl::Status CutCsvAt(int64_t step);
  absl::Status CsvError(int error) const;

  const bool bar_, quiet_;
  int64_t total_steps_ = 0;
  std::unique_ptr<FILE, int (*)(FILE*)> csv_{nullptr, &fclose};
  std::string csv_path_;
  bool csv_cut_ = true;  // false: rows of an earlier start may have to give way
  absl::Status csv_status_;
  std::optional<link::StepRecord> last_;
  std::map<std::string, link::EvalRecord> evals_;
  absl::Time shown_, began_;
  int64_t first_step_ = -1;
  std::map<std::string, double> phase_seconds_;  // since the first step
  bool bar_open_ = false;

  absl::Mutex mutex_;
  std::map<int64_t, uint64_t> samples_ ABSL_GUARDED_BY(mutex_);  // by step
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_TRAIN_OUTPUT_H_
