// The trainer's decisions: promise, synchronise, step and gate, votes, checkpoint commit, leaving.
// Deterministic and single-threaded; no clock, thread, file or socket. The shell feeds events and
// carries out actions.
//
// Rules that hold whatever happens (each has a test):
//  1. At most one operation is under way. A generation is promised only when none is, so after the
//  promise nothing
//     of an older generation can still be applied.
//  2. An ApplyOp is only ever given after the records of all ranks for that very generation and
//  step agreed.
//  3. A vote that an exchange of step k shows acts after step k + 1, on every rank.
//  4. Step k is committed, and its record emitted, when the exchange of step k + 1 is complete.
//  5. A snapshot is of a committed state with an agreed digest. A manifest is written only after an
//  exchange that
//     showed every part durable. A generation that breaks abandons its save; the next one saves as
//     soon as it can.
//  6. A lower (attempt, generation) than seen is ignored.

#ifndef WORKER_TRAINER_CORE_CORE_H_
#define WORKER_TRAINER_CORE_CORE_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/link/messages.h"
#include "worker/trainer/core/deadlines.h"
#include "worker/trainer/core/events.h"
#include "worker/trainer/core/gate.h"
#include "worker/trainer/core/goodput.h"
#include "worker/trainer/core/history.h"
#include "worker/trainer/core/save.h"

namespace vitscale {

class TrainerCore {
 public:
  // Every event gives its actions, in the order in which they must be carried out.
  std::vector<Action> Handle(const CoreEvent& event, absl::Time now);

  // When to call Handle(Tick) at the latest; InfiniteFuture: not at all.
  absl::Time NextDeadline() const { return absl::InfiniteFuture(); }

  // Whole; to be reported on change and at least every second.
  const link::ObservedState& observed() const { return observed_; }
  const link::Goodput& goodput() const { return goodput_.total(); }
  const std::optional<link::StepRecord>& last_step() const { return last_step_; }
  const std::optional<RunFacts>& facts() const { return facts_; }
  int64_t collective_failures() const { return collective_failures_; }
  int64_t non_finite_steps() const { return non_finite_steps_; }
  bool exiting() const { return exiting_; }

 private:
  // Where this rank stands in the generation it works in.
  enum class Mode {
    kOutside,  // none: before the first promise, after a break, after leaving
    kSyncing,  // SynchroniseOp under way
    kTraining,
    kClosing,  // exchanges without gradients until everything is durable
    kLeaving,  // LeaveOp under way
  };
  enum class Ending { kNone, kFinished, kStop, kNonFinite };

  // ---- core.cc: orders and the ladder ----
  void On(const OrderEvent& event);
  void On(const Prepared& event);
  void On(const Listed& event);
  void On(const Synchronised& event);
  void On(const Left& event);
  void On(const EmergencySaved& event);
  void On(const Tick&) {}
  void Reconcile();
  bool GiveWay();
  void Promise(int64_t generation);
  void Synchronise();
  void LeaveAsOrphan();
  void BreakGeneration(const Outcome& outcome);
  bool Failed(const Outcome& outcome);  // true: the operation failed and was dealt with
  void Exit(int code, std::string error);
  // An order wants this generation given up, or the trainer gone.
  bool GenerationIsOver() const;

  // ---- core_step.cc: step, gate, apply, evaluations ----
  void On(const Exchanged& event);
  void OnStepAgreed();
  void On(const Applied& event);
  void AfterStep();
  void On(const Evaluated& event);
  void ContinueTraining();
  void StartStep();
  void CommitPreviousStep();
  void ApplyAgreed();
  bool SaveDueAfter(int64_t step) const;
  bool EndsAfter(int64_t step) const { return acting_stop_ || step >= facts_->total_steps; }
  link::StepRecord MakeStepRecord(const Applied& event) const;
  void EmitStep(const link::StepRecord& record);
  void EmitEvent(std::string kind, std::string reason, std::string message);
  void Emit(link::SpooledRecord record);

  // ---- core_save.cc: snapshot, parts, manifest, closing ----
  void On(const SnapshotTaken& event);
  void On(const PartWritten& event);
  void On(const ManifestWritten& event);
  SaveTracker::Verdict JudgeSave();
  void TakeSnapshot();
  void AbandonSave(bool discard);
  void ReportSaveFailure(int64_t step, const absl::Status& status);
  void StartClosing(Ending ending, std::string error = "");
  void ContinueClosing();
  void OnClosingAgreed();
  void DescribeManifest(ControlRecord& record) const;
  void FinishClosing(bool saved);
  ControlRecord NextRecord(std::optional<uint64_t> digest) const;

  template <typename Op>
  void Do(Op op, GoodputMeter::Bucket bucket) {
    busy_ = true;
    activity_ = bucket;
    actions_.push_back(std::move(op));
  }
  void Note(Action action) { actions_.push_back(std::move(action)); }
  bool reporter() const { return identity_.rank == 0; }

  std::vector<Action> actions_;  // of the event at hand
  absl::Time now_;
  bool busy_ = false;
  bool exiting_ = false;

  std::optional<link::DesiredState> desired_;
  bool have_setup_ = false;
  bool orphaned_ = false;
  bool prepare_asked_ = false;
  std::optional<RunFacts> facts_;
  int64_t listed_generation_ = -1;  // promise that the last listing belongs to
  std::set<std::string> bad_checkpoints_;
  std::string save_failure_;            // of this rank, the last; for people
  std::set<std::string> told_damaged_;  // folders that an event has named
  link::ObservedState observed_;

  // The generation at hand.
  Mode mode_ = Mode::kOutside;
  GenerationIdentity identity_;
  bool aborted_ = false;  // AbortNote given
  bool broken_ = false;   // it failed here; wait for the next one
  Agreement agreement_;   // of the step under way
  bool votes_stop_ = false,
       votes_checkpoint_ = false;  // seen in the last exchange: act after the next step
  bool acting_stop_ = false,
       acting_checkpoint_ = false;  // seen in the one before: act after the step under way
  std::optional<uint64_t> digest_;  // of the present state, to go into the next record
  std::optional<link::StepRecord> uncommitted_;
  std::vector<int> evals_due_;
  int skipped_in_row_ = 0;
  absl::Time step_began_;
  Exchanged exchanged_;  // of the step under way, or of the last closing exchange
  StepDeadline step_deadline_;

  SaveTracker save_;
  uint64_t save_digest_ = 0;
  bool save_deferred_ = false;     // one came due while another was under way
  bool save_again_ = false;        // one was abandoned with its generation: vote for another
  std::string source_checkpoint_;  // the state came from it …
  int64_t source_step_ = -1;       // … at this step
  bool manifest_pending_ = false;  // lowest rank: WriteManifestNote given, no answer yet
  int64_t manifest_step_ =
      -1;  // lowest rank: newest step whose manifest this generation made durable

  // kClosing.
  Ending ending_ = Ending::kNone;
  std::string ending_error_;
  int ending_code_ = 0;  // after LeaveOp; kFinished waits for the order to go
  bool need_final_save_ = false;
  bool awaiting_manifest_ = false;  // every part is durable; the lowest rank writes the manifest
  bool final_evals_begun_ = false;

  GoodputMeter goodput_;
  GoodputMeter::Bucket activity_ = &link::Goodput::queued;
  int64_t highest_step_ = 0;  // steps up to it were done before: doing them again is not productive
  int64_t collective_failures_ = 0;
  int64_t non_finite_steps_ = 0;
  std::optional<link::StepRecord> last_step_;
  StepHistory history_;
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_CORE_CORE_H_
