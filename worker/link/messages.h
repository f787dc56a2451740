// What agent and trainer say to each other, as plain structs: the engine's view of the protocol.
//
// One struct per message of proto/vitscale/v1/{worker_service,trainer_link,job}.proto, same names,
// same meaning of every field (documented there); enum values carry the protocol's numbers.
// worker/link/codec.h turns structs into bytes and back and is the only place that sees protobuf.
// Times are wall clock; durations carry their unit in their name. An absent sub-message is an empty
// std::optional.
//
// Strings are UTF-8: a peer refuses a whole message for one that is not.
//
// All structs compare by value: agent and trainer send their state whole, on change, and need to
// know what a change is.

#ifndef WORKER_LINK_MESSAGES_H_
#define WORKER_LINK_MESSAGES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace vitscale::link {

// Where a trainer stands or shall stand; ordered, so `desired.stage >= Stage::kPrepare` means "a
// trainer runs" except for kExit.
enum class Stage { kUnspecified = 0, kIdle = 1, kPrepare = 2, kForm = 3, kGo = 4, kExit = 5 };

// What a generation is for.
enum class Purpose { kUnspecified = 0, kTrain = 1, kCheckpointAndExit = 2 };

// What is wanted of a job; a greater one replaces a lesser.
enum class Intent {
  kUnspecified = 0,
  kRun = 1,
  kPreempt = 2,
  kDrain = 3,
  kPause = 4,
  kCancel = 5,
  kKill = 6
};

// Resolved precision of a gang.
enum class Precision { kUnspecified = 0, kAuto = 1, kBf16 = 2, kF32 = 3 };

// Exit codes of a trainer; 128 + n stands for death by signal n.
enum class TrainerExit {
  kDone = 0,
  kPreemptedSaved = 75,    // preempted, checkpoint durable
  kPreemptedUnsaved = 76,  // preempted, no checkpoint
  kConfiguration = 78,     // bad configuration: no retry
  kData = 80,
  kNonFinite = 81,
  kCollective = 82,  // collective or lost rank
  kDevice = 83,
  kStorage = 84,  // checkpoint storage
  kFenced = 85,   // another incarnation, attempt or agent owns the device
  kNoProgress = 93,
};

// "preempted, checkpoint durable (exit code 75)", "killed by SIGKILL (137)", "exit code 3".
std::string DescribeExit(int exit_code);
// "prepare"; words of logs and errors.
absl::string_view StageName(Stage stage);
absl::string_view IntentName(Intent intent);

// A rank of a generation.
struct Member {
  int rank = 0;
  std::string worker_id;
  std::string incarnation;
  std::string data_address;  // "host:port"
  bool operator==(const Member&) const = default;
};

// The name of a replica's state. Equal names are equal bits.
struct StateVersion {
  int64_t established_generation = 0;  // 0: initialisation or a checkpoint
  int64_t step = 0;
  uint64_t digest = 0;  // 0: not computed
  int64_t lineage = 0;
  bool operator==(const StateVersion&) const = default;
};

// How ranks find each other. The secret is never logged.
struct Rendezvous {
  std::string secret;
  double deadline_seconds = 0;
  bool operator==(const Rendezvous&) const = default;
};

// Where the state of a generation comes from.
struct Source {
  enum class Kind { kNone, kInitialise, kCheckpoint, kRank };
  Kind kind = Kind::kNone;
  std::string checkpoint;               // kCheckpoint: CheckpointInfo::id
  int rank = 0;                         // kRank
  std::optional<StateVersion> version;  // what the state must have after synchronisation
  bool operator==(const Source&) const = default;
};

// What decides the bits of a run.
struct NumericsRecord {
  std::string backend;
  std::string build;
  std::string instruction_set;
  std::string libraries;
  Precision precision = Precision::kUnspecified;
  int world_size = 0;
  int batch_micro = 0;
  std::string collective;
  int64_t bucket_bytes = 0;
  std::string recompute;
  std::string residual = "f32";
  std::string choices;  // of rank 0's device; empty: not known, or nothing was chosen
  bool operator==(const NumericsRecord&) const = default;
};

// Wall time of a job by what it was doing, seconds.
struct Goodput {
  double productive = 0;
  double recomputed = 0;
  double recovering = 0;
  double checkpoint_stall = 0;
  double input_stall = 0;
  double evaluation = 0;
  double queued = 0;
  double paused = 0;
  bool operator==(const Goodput&) const = default;
};

// Scalars of one committed step.
struct StepRecord {
  int64_t step = 0;
  int64_t images = 0;
  double loss = 0;
  double gradient_norm = 0;
  double learning_rate = 0;
  double parameter_norm = 0;
  double update_norm = 0;
  double train_accuracy = 0;
  double step_seconds = 0;
  std::map<std::string, double> phase_seconds;
  absl::Time time = absl::UnixEpoch();
  int64_t generation = 0;
  bool skipped = false;
  int64_t lineage = 0;
  std::vector<double> arrival_skew_seconds;
  int64_t resident_bytes = 0;
  double flops = 0;
  bool operator==(const StepRecord&) const = default;
};

// Result of one evaluation.
struct EvalRecord {
  std::string name;
  int64_t step = 0;
  int64_t images = 0;
  double flops = 0;
  int64_t eval_images = 0;
  std::map<std::string, double> values;
  absl::Time time = absl::UnixEpoch();
  int64_t generation = 0;
  double seconds = 0;
  bool final = false;
  bool operator==(const EvalRecord&) const = default;
};

// A checkpoint that is complete (its manifest is durable).
struct CheckpointInfo {
  std::string id;
  int64_t step = 0;
  int64_t lineage = 0;
  int64_t attempt = 0;
  int64_t generation = 0;
  int64_t bytes = 0;
  std::string digest;  // 16 hex digits
  std::string path;
  absl::Time time = absl::UnixEpoch();
  std::string parent;
  int64_t images = 0;
  bool pinned = false;
  bool final = false;
  bool deleted = false;
  bool operator==(const CheckpointInfo&) const = default;
};

// A line of output.
struct LogLine {
  int64_t sequence = 0;  // given by the coordinator
  absl::Time time = absl::UnixEpoch();
  int rank = -1;
  std::string worker_id;
  std::string text;
  int64_t attempt = 0;
  bool operator==(const LogLine&) const = default;
};

// A lifecycle event of trainer or agent. The coordinator adds sequence, actor and job states.
struct Event {
  absl::Time time = absl::UnixEpoch();
  std::string job_id;
  std::string worker_id;
  std::string kind;
  std::string reason;
  std::string message;
  int64_t attempt = 0;
  int64_t generation = 0;
  int64_t step = 0;
  bool operator==(const Event&) const = default;
};

// Step records first_step..last_step were thinned out because the spool was full.
struct Gap {
  int64_t first_step = 0;
  int64_t last_step = 0;
  bool operator==(const Gap&) const = default;
};

// Something that must reach the coordinator once.
struct SpooledRecord {
  int64_t number = 0;       // given by the agent's spool; a trainer leaves 0
  std::string incarnation;  // given by the agent
  std::string job_id;       // a trainer may leave it and attempt empty: the agent knows
  int64_t attempt = 0;
  int64_t generation = 0;
  std::variant<std::monostate, StepRecord, EvalRecord, CheckpointInfo, LogLine, Event, Gap> record;
  bool operator==(const SpooledRecord&) const = default;
};

// What the coordinator wants of one agent. An empty job: idle.
struct DesiredState {
  std::string job_id;
  int64_t attempt = 0;
  int64_t generation = 0;
  Stage stage = Stage::kUnspecified;
  std::vector<Member> members;
  int rank = 0;
  std::optional<Rendezvous> rendezvous;
  std::optional<Source> source;
  Purpose purpose = Purpose::kUnspecified;
  std::string spec_bytes;  // canonical JobSpec, serialised; empty: none. worker/config reads it
  std::optional<NumericsRecord> numerics;
  Intent intent = Intent::kUnspecified;
  bool kill = false;
  double grace_seconds = 0;
  int64_t lineage = 0;
  std::string instruction_set;
  Precision precision = Precision::kUnspecified;
  std::vector<std::string> pinned_checkpoints;
  bool operator==(const DesiredState&) const = default;
};

// What is going on on a card, as its driver says.
struct DeviceUse {
  int64_t used_bytes = 0;
  int64_t free_bytes = 0;
  int foreign_processes = 0;
  std::string dirty;
  bool operator==(const DeviceUse&) const = default;
};

// Where a trainer stands, as its agent sees it.
struct ObservedState {
  std::string job_id;
  int64_t attempt = 0;
  int64_t generation = 0;
  Stage stage = Stage::kUnspecified;
  std::optional<StateVersion> version;
  std::vector<CheckpointInfo> checkpoints;
  int64_t promised_generation = 0;
  int64_t step = 0;
  int64_t committed_step = 0;
  bool collective_failed = false;
  std::vector<int> suspects;
  bool exited = false;  // set by the agent
  int exit_code = 0;    // set by the agent
  std::string error;
  std::string data_address;
  std::optional<NumericsRecord> numerics;
  std::string checkpoint;
  bool finished = false;
  bool device_free = false;  // set by the agent
  bool draining = false;     // set by the agent
  int64_t trainer_pid = 0;   // set by the agent
  int64_t spooled = 0;       // set by the agent
  int64_t total_steps = 0;
  std::optional<DeviceUse> device_use;  // set by the agent
  bool operator==(const ObservedState&) const = default;
};

// What a trainer needs to know of its surroundings; sent once, first.
struct TrainerSetup {
  std::string worker_id;
  std::string device;
  int threads = 1;
  std::vector<std::string> data_roots;
  std::vector<std::string> checkpoint_roots;
  std::string data_address;
  std::string faults;
  std::string instruction_set;
  bool operator==(const TrainerSetup&) const = default;
};

// From agent to trainer.
struct TrainerOrder {
  std::optional<DesiredState> desired;
  std::optional<TrainerSetup> setup;
  bool orphaned = false;
  int64_t spooled = 0;
  bool operator==(const TrainerOrder&) const = default;
};

// Gauges and totals of a trainer; whole.
struct TrainerMetrics {
  std::optional<StepRecord> last_step;
  std::map<std::string, double> phase_seconds_total;
  int64_t images_total = 0;
  double input_wait_seconds_total = 0;
  int64_t collective_failures_total = 0;
  double checkpoint_save_seconds = 0;
  int64_t checkpoint_bytes = 0;
  int64_t checkpoint_failures_total = 0;
  int64_t checkpoint_step = 0;
  int64_t data_read_bytes_total = 0;
  int64_t resident_bytes = 0;
  int64_t nonfinite_total = 0;
  double flops_per_second = 0;
  double checkpoint_timestamp_seconds = 0;
  Goodput goodput;
  std::map<std::string, int64_t> collective_bytes_total;  // by algorithm
  bool operator==(const TrainerMetrics&) const = default;
};

// From trainer to agent.
struct TrainerReport {
  std::optional<ObservedState> observed;
  std::vector<SpooledRecord> records;
  std::optional<TrainerMetrics> metrics;
  bool operator==(const TrainerReport&) const = default;
};

}  // namespace vitscale::link

#endif  // WORKER_LINK_MESSAGES_H_
