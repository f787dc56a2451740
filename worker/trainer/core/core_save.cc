// Saving and leaving: snapshot, parts, manifest; exchanges without gradients until all is durable.
// See core.h.

#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/checkpoint/checkpoint_name.h"
#include "worker/trainer/core/core.h"

namespace vitscale {
namespace {

constexpr absl::Duration kClosingTimeout = absl::Minutes(10);  // the slowest part or manifest

}  // namespace

// Of the state before the step under way: it is committed now, and its digest is the same on all
// ranks.
void TrainerCore::TakeSnapshot() {
  save_digest_ = *agreement_.digest;
  save_.StartWriting();
  Do(SnapshotOp{identity_.generation, save_.step(), save_digest_},
     &link::Goodput::checkpoint_stall);
}

void TrainerCore::On(const SnapshotTaken& event) {
  busy_ = false;
  if (!event.status.ok()) {  // this rank's part has failed; the next exchange tells the others
    save_.PartDone({identity_.generation, save_.step(), event.status, 0, 0});
    ReportSaveFailure(save_.step(), event.status);
  }
  if (GenerationIsOver()) return;
  if (mode_ == Mode::kClosing) return ContinueClosing();
  activity_ = observed_.version->step < highest_step_ ? &link::Goodput::recomputed
                                                      : &link::Goodput::productive;
  ApplyAgreed();
}

void TrainerCore::On(const PartWritten& event) {
  const bool awaited = event.generation == identity_.generation && event.step == save_.step() &&
                       save_.own_part() == PartState::kWriting;
  if (!awaited) return;
  save_.PartDone(event);
  if (!event.status.ok()) ReportSaveFailure(event.step, event.status);
  if (mode_ == Mode::kClosing && !busy_) ContinueClosing();
}

// Looks at what the exchange showed about the save under way; the lowest rank commits it.
SaveTracker::Verdict TrainerCore::JudgeSave() {
  const SaveTracker::Verdict verdict = save_.Judge(exchanged_.records);
  if (verdict == SaveTracker::Verdict::kFailed) AbandonSave(/*discard=*/reporter());
  if (verdict != SaveTracker::Verdict::kAllDurable) return verdict;
  if (reporter()) {
    WriteManifestNote manifest{
        identity_.generation,        save_.step(), {}, {}, save_digest_, false,
        desired_->pinned_checkpoints};
    for (const ControlRecord& record : exchanged_.records) {
      manifest.part_bytes.push_back(record.part_bytes);
      manifest.part_crc32c.push_back(record.part_crc32c);
    }
    manifest.final = ending_ == Ending::kFinished && save_.step() == observed_.version->step;
    manifest_pending_ = true;
    Note(std::move(manifest));
  }
  save_.Reset();
  return verdict;
}

// In a broken generation nothing is removed: another rank may have seen every part durable, and be
// writing the manifest. Retention removes such folders later.
void TrainerCore::AbandonSave(bool discard) {
  if (save_.phase() == SaveTracker::Phase::kWriting) {
    Note(AbandonSaveNote{identity_.generation, save_.step(), discard});
  }
  save_.Reset();
}

void TrainerCore::On(const ManifestWritten& event) {
  manifest_pending_ = false;
  if (event.status.ok()) {
    manifest_step_ = event.step;
    observed_.checkpoint = event.checkpoint.id;
    link::SpooledRecord spooled;
    spooled.generation = event.generation;
    spooled.record = event.checkpoint;
    Emit(spooled);
  } else {
    ReportSaveFailure(event.step, event.status);
  }
  for (const link::CheckpointInfo& deleted : event.deleted) {
    link::SpooledRecord spooled;
    spooled.record = deleted;
    Emit(std::move(spooled));
  }
  if (mode_ == Mode::kClosing && !busy_) ContinueClosing();
}

void TrainerCore::ReportSaveFailure(int64_t step, const absl::Status& status) {
  save_failure_ = std::string(status.message());
  EmitEvent("checkpoint_failed", "storage",
            absl::StrCat("checkpoint of step ", step, ": ", save_failure_));
}

void TrainerCore::StartClosing(Ending ending, std::string error) {
  mode_ = Mode::kClosing;
  ending_ = ending;
  ending_error_ = std::move(error);
  const int64_t step = observed_.version->step;
  need_final_save_ = ending != Ending::kNonFinite && step > 0 && step != source_step_;
  if (!need_final_save_) digest_.reset();
  awaiting_manifest_ = final_evals_begun_ = false;
  evals_due_.clear();
  activity_ = &link::Goodput::checkpoint_stall;
  ContinueClosing();
}

// Every rank goes through the same sequence, since each decision depends on shared facts only;
// waiting for the own part or manifest delays it, and the others wait in the exchange.
void TrainerCore::ContinueClosing() {
  if (GenerationIsOver()) return;
  const bool writing = save_.phase() == SaveTracker::Phase::kWriting;
  if (ending_ == Ending::kFinished && !final_evals_begun_ && (writing || !need_final_save_)) {
    final_evals_begun_ = true;  // while the parts are being written
    for (size_t i = 0; i < facts_->eval_every.size(); ++i)
      evals_due_.push_back(static_cast<int>(i));
  }
  if (!evals_due_.empty()) {
    return Do(EvaluateOp{evals_due_.front(), observed_.version->step, true},
              &link::Goodput::evaluation);
  }
  activity_ = &link::Goodput::checkpoint_stall;
  if (manifest_pending_ || save_.own_part() == PartState::kWriting) return;
  if (need_final_save_ && !awaiting_manifest_ && save_.phase() == SaveTracker::Phase::kIdle) {
    save_.MakeDue(observed_.version->step);
  }
  // The digest goes out when the save is taken up; an older save is brought to its end before.
  ControlRecord record =
      NextRecord(save_.phase() == SaveTracker::Phase::kDue ? digest_ : std::nullopt);
  record.set(RecordFlag::kClosing);
  if (awaiting_manifest_) DescribeManifest(record);
  Do(ClosingOp{record, kClosingTimeout}, &link::Goodput::checkpoint_stall);
}

void TrainerCore::DescribeManifest(ControlRecord& record) const {
  record.part_step = observed_.version->step;
  record.set_part(PartState::kDurable);
  if (reporter()) {
    record.set_part(manifest_step_ == record.part_step ? PartState::kManifest : PartState::kFailed);
  }
}

void TrainerCore::OnClosingAgreed() {
  if (awaiting_manifest_)
    return FinishClosing(exchanged_.records[0].part() == PartState::kManifest);
  const bool own_save = need_final_save_ && save_.step() == observed_.version->step;
  const SaveTracker::Verdict verdict = JudgeSave();
  if (own_save && verdict == SaveTracker::Verdict::kFailed) return FinishClosing(false);
  awaiting_manifest_ = own_save && verdict == SaveTracker::Verdict::kAllDurable;
  if (save_.phase() == SaveTracker::Phase::kDue && agreement_.digest) return TakeSnapshot();
  const bool older_done =
      save_.phase() == SaveTracker::Phase::kIdle && verdict == SaveTracker::Verdict::kNone;
  if (!need_final_save_ && older_done) return FinishClosing(false);
  ContinueClosing();  // where the lowest rank waits for its manifest before it comes to the next
                      // exchange
}

// Every rank knows how it ended; nothing is left to be waited for.
void TrainerCore::FinishClosing(bool saved) {
  using link::TrainerExit;
  const int64_t step = observed_.version->step;
  if (saved) {
    observed_.checkpoint = CheckpointId(
        desired_->job_id, CheckpointName{identity_.attempt, identity_.generation, step, false});
  }
  const bool durable = saved || (step == source_step_ && !source_checkpoint_.empty());
  TrainerExit code = TrainerExit::kDone;
  if (need_final_save_ && !saved) {
    code = TrainerExit::kStorage;
    ending_error_ = absl::StrCat("the checkpoint of step ", step, " could not be saved");
    if (!save_failure_.empty()) absl::StrAppend(&ending_error_, ": ", save_failure_);
  } else if (ending_ == Ending::kNonFinite) {
    code = TrainerExit::kNonFinite;
  } else if (ending_ == Ending::kStop) {
    code = durable ? TrainerExit::kPreemptedSaved : TrainerExit::kPreemptedUnsaved;
  } else {
    observed_.finished = true;
  }
  ending_code_ = static_cast<int>(code);
  mode_ = Mode::kLeaving;
  Do(LeaveOp{}, &link::Goodput::queued);
}

}  // namespace vitscale
