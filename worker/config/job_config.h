// A job as the engine sees it: plain structs made from the canonical JobSpec. The only door between
// the job file and the engine, and beside worker/link/ the only place in it that knows protobuf.
//
//   VITSCALE_ASSIGN_OR_RETURN(JobConfig job, LoadJobConfig("job.yaml", {"seed=2"}));       //
//   vitscale-train VITSCALE_ASSIGN_OR_RETURN(JobConfig job, JobConfigFromCanonical(desired.spec));
//   // trainer of an agent VITSCALE_ASSIGN_OR_RETURN(RunLengths run, ResolveLengths(job,
//   source->size()));        // epochs become steps

#ifndef WORKER_CONFIG_JOB_CONFIG_H_
#define WORKER_CONFIG_JOB_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/spec/checkpoint_ref.h"
#include "proto/spec/units.h"
#include "worker/data/data_config.h"
#include "worker/model/model_config.h"
#include "worker/model/optimizer_config.h"
#include "worker/plan/plan.h"
#include "worker/plan/schedule.h"

namespace vitscale {

// The schedule with lengths that may still be in epochs; ResolveLengths gives the ScheduleConfig in
// steps.
struct ScheduleLengths {
  ScheduleKind kind = ScheduleKind::kRsqrt;
  Length warmup, timescale, cooldown, total, shift;
};

// Few-shot linear evaluation, see worker/eval/few_shot.h.
struct FewShotConfig {
  DataSourceConfig support;  // what the shots are drawn from
  std::vector<int> shots;    // images per class
  std::vector<double> l2;    // strengths of the regularisation
  int seeds = 0;             // draws
};

struct EvalConfig {
  std::string name;                       // unique in the job
  std::optional<FewShotConfig> few_shot;  // none: loss and top-1 of the job's own head
  DataSourceConfig data;
  Preprocess preprocess;  // without random ops
  Length every;           // zero: at the end only
};

struct CheckpointConfig {
  std::string dir;  // below a checkpoint root
  Length every;     // never zero
  int keep_last = 3;
  Length keep_every;  // zero: none kept for ever
};

enum class DivergencePolicy { kFail, kSkip };
struct DivergenceConfig {
  DivergencePolicy policy = DivergencePolicy::kFail;
  int max = 3;  // kSkip: most skipped steps in a row
};

enum class JobKind { kPretrain, kEvaluate };
enum class WantedDevice { kAny, kCpu, kCuda };  // kAny: all workers of one kind

struct JobConfig {
  std::string name;
  JobKind kind = JobKind::kPretrain;
  std::optional<CheckpointRef> from;  // complete where a worker gets it from a coordinator
  int workers = 1;                    // world size (min == max)
  WantedDevice wanted_device = WantedDevice::kAny;
  ModelConfig model;
  OptimizerConfig optimizer;
  ScheduleLengths schedule;
  int batch_global = 0;
  int batch_micro = 0;                     // 0: not chosen yet, see micro_batch.h
  Precision precision = Precision::kAuto;  // kAuto: resolved at placement
  RecomputeLevel recompute = RecomputeLevel::kAuto;  // kAuto: see ChooseRecompute in worker/plan
  DataSourceConfig train;
  Preprocess preprocess;
  std::vector<EvalConfig> evals;
  CheckpointConfig checkpoint;
  DivergenceConfig on_divergence;
  uint64_t seed = 0;
  absl::Duration grace = absl::Seconds(120);
  std::string canonical_text;   // YAML, for the manifest and for people
  std::string canonical_bytes;  // deterministic serialisation of the canonical JobSpec
};

// Errors: INVALID_ARGUMENT or UNIMPLEMENTED with every fault at once, each with its field path.
absl::StatusOr<JobConfig> JobConfigFromCanonical(absl::string_view serialized_job_spec);

// Reads a job file of any of the three formats ("-": standard input is not read here, see
// ParseJobConfig). Errors: as above; NOT_FOUND and friends naming the file.
absl::StatusOr<JobConfig> LoadJobConfig(const std::string& path,
                                        const std::vector<std::string>& overrides = {});

// The same from text; `source` names it in errors and its ending decides the format ("job.yaml").
absl::StatusOr<JobConfig> ParseJobConfig(absl::string_view text, absl::string_view source,
                                         const std::vector<std::string>& overrides = {});

// Every length in steps, once the size of the training data is known.
struct RunLengths {
  ScheduleConfig schedule;          // total included
  int64_t total_steps = 0;          // > 0; of an evaluation: those done in its checkpoint
  int64_t steps_per_epoch = 0;      // floor(train_images / batch_global), > 0
  int64_t checkpoint_every = 0;     // > 0
  int64_t keep_every = 0;           // 0: none
  std::vector<int64_t> eval_every;  // one per job.evals; 0: at the end only
};

// An evaluation needs no training data. Errors: INVALID_ARGUMENT naming the field: fewer images
// than a global batch, warmup + cooldown beyond total, a length that rounds to no step.
absl::StatusOr<RunLengths> ResolveLengths(const JobConfig& job, int64_t train_images);

// What the planner needs of a job. `precision` is the resolved one; the size of the source is left
// to the caller, who knows it once the data is open.
PlanRequest PlanRequestFor(const JobConfig& job, Precision precision);

}  // namespace vitscale

#endif  // WORKER_CONFIG_JOB_CONFIG_H_
