// What goes into the trainer's core and what comes out of it: plain structs.
//
// An *operation* is work for the trainer's one step thread; at most one is under way, and each ends
// with one event that carries its outcome. *Notes* are done at once or elsewhere (checkpoint
// writer, link) and never block.

#ifndef WORKER_TRAINER_CORE_EVENTS_H_
#define WORKER_TRAINER_CORE_EVENTS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/collective/control_record.h"
#include "worker/link/messages.h"

namespace vitscale {

// What the core must know of the run once it is prepared.
struct RunFacts {
  int64_t start_step = 0;   // done in the state that the job begins with: above 0 for a branch
  int64_t total_steps = 0;  // an evaluation: start_step
  int64_t batch_global = 0;
  int64_t checkpoint_every = 0;
  std::vector<int64_t> eval_every;  // 0: at the end only
  double training_flops_per_image = 0;
  uint64_t plan_hash = 0;
  uint64_t job_hash = 0;
  bool skip_non_finite = false;  // policy: go on without the update …
  int skips_max = 3;             // … at most so often in a row
  std::string data_address;
  link::NumericsRecord numerics;
};

// Whose fault a failed operation is; decides between a broken generation and an exit.
enum class Fault { kNone, kCollective, kConfiguration, kData, kDevice, kStorage };

// ---- operations
// ------------------------------------------------------------------------------------------------

struct PrepareOp {
  link::DesiredState desired;
};                      // plan, data, buffers, programs
struct ListOp {};       // checkpoints that this rank can read
struct SynchroniseOp {  // meet the others, take over the state of `source`, compare digests
  link::DesiredState desired;
};
struct StepOp {            // part 1 of a step and its exchange
  ControlRecord record;    // to be completed with the sums of this rank
  absl::Duration timeout;  // of the exchange
};
struct ClosingOp {  // an exchange without gradients
  ControlRecord record;
  absl::Duration timeout;
};
struct SnapshotOp {  // copy this rank's share aside and start writing it
  int64_t generation = 0;
  int64_t step = 0;
  uint64_t digest = 0;
};
struct ApplyOp {      // part 2 of a step
  int64_t step = 0;   // steps done after it
  bool apply = true;  // false: everything stays as it is, the step counts as skipped
  bool want_digest = false;
};
struct EvaluateOp {
  int index = 0;  // in the job's list
  int64_t step = 0;
  bool final = false;
};
struct LeaveOp {};  // barrier, then give up the communicator in good order
struct EmergencySaveOp {
  int64_t step = 0;
};  // whole state, under a name of its own

// ---- notes
// -----------------------------------------------------------------------------------------------------

struct AbortNote {};  // wake every wait of the communicator; the operation under way fails soon
struct DropCollectiveNote {};  // the communicator is of a dead generation: destroy it
struct WriteManifestNote {     // lowest rank: commit the save, then retention
  int64_t generation = 0;
  int64_t step = 0;
  std::vector<int64_t> part_bytes;  // by rank
  std::vector<uint32_t> part_crc32c;
  uint64_t digest = 0;
  bool final = false;
  std::vector<std::string> pinned;  // checkpoints that retention leaves
};
struct AbandonSaveNote {
  int64_t generation = 0;
  int64_t step = 0;
  bool discard = false;  // remove the folder: an exchange showed that it can never be completed
};
struct EmitNote {
  link::SpooledRecord record;
};
struct ExitNote {
  int code = 0;
  std::string error;
};

using Action =
    std::variant<PrepareOp, ListOp, SynchroniseOp, StepOp, ClosingOp, SnapshotOp, ApplyOp,
                 EvaluateOp, LeaveOp, EmergencySaveOp, AbortNote, DropCollectiveNote,
                 WriteManifestNote, AbandonSaveNote, EmitNote, ExitNote>;

// ---- events
// ----------------------------------------------------------------------------------------------------

struct OrderEvent {
  link::TrainerOrder order;
};

// How every operation ends.
struct Outcome {
  absl::Status status;
  Fault fault = Fault::kNone;  // set when status is not OK
  std::vector<int> suspects;   // kCollective
};
struct Prepared : Outcome {
  RunFacts facts;
};
struct Listed : Outcome {
  std::vector<link::CheckpointInfo> checkpoints;  // newest first
  std::vector<std::string> damaged;               // passed over: "checkpoint '/path' is damaged: reason"
};
struct Synchronised : Outcome {
  int64_t step = 0;
  uint64_t digest = 0;
  int64_t lineage = 0;
  std::string checkpoint;       // the state came from it; empty: initialisation
  bool checkpoint_bad = false;  // its bytes are damaged: never list it again
  std::string notice;           // "resumes, not bit-exact: …"; empty: nothing to say
  std::string collective;       // Collective::algorithm() of the generation
};
struct Exchanged : Outcome {  // of StepOp and ClosingOp
  std::vector<ControlRecord> records;
  double input_wait_seconds = 0;
  std::map<std::string, double> phase_seconds;
};
struct SnapshotTaken : Outcome {};
struct Applied : Outcome {
  double gradient_norm = 0, parameter_norm = 0, update_norm = 0, learning_rate = 0;
  bool skipped = false;  // the norm was not finite, or ApplyOp::apply was false
  uint64_t digest = 0;   // if wanted
  std::map<std::string, double> phase_seconds;
};
struct Evaluated : Outcome {
  link::EvalRecord record;
};
struct Left : Outcome {};
struct EmergencySaved : Outcome {
  link::CheckpointInfo checkpoint;
};

// From the checkpoint writer, at any time after a SnapshotOp or a WriteManifestNote.
struct PartWritten {
  int64_t generation = 0;
  int64_t step = 0;
  absl::Status status;
  int64_t bytes = 0;
  uint32_t crc32c = 0;
};
struct ManifestWritten {
  int64_t generation = 0;
  int64_t step = 0;
  absl::Status status;
  link::CheckpointInfo checkpoint;
  std::vector<link::CheckpointInfo> deleted;  // by retention
};
struct Tick {};

using CoreEvent =
    std::variant<OrderEvent, Prepared, Listed, Synchronised, Exchanged, SnapshotTaken, Applied,
                 Evaluated, Left, EmergencySaved, PartWritten, ManifestWritten, Tick>;

}  // namespace vitscale

#endif  // WORKER_TRAINER_CORE_EVENTS_H_
