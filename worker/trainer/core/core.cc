// Orders and the ladder: prepare, promise, list, synchronise, leave. See core.h.

#include "worker/trainer/core/core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vitscale {
namespace {

using link::Stage;
using link::TrainerExit;

int ExitCodeOf(Fault fault) {
  switch (fault) {
    case Fault::kConfiguration:
      return static_cast<int>(TrainerExit::kConfiguration);
    case Fault::kData:
      return static_cast<int>(TrainerExit::kData);
    case Fault::kStorage:
      return static_cast<int>(TrainerExit::kStorage);
    case Fault::kCollective:
      return static_cast<int>(TrainerExit::kCollective);
    case Fault::kDevice:
    case Fault::kNone:
      break;
  }
  return static_cast<int>(TrainerExit::kDevice);
}

bool WantsExit(const link::DesiredState& desired) {
  return desired.stage == Stage::kExit || desired.stage == Stage::kIdle || desired.kill;
}

}  // namespace

std::vector<Action> TrainerCore::Handle(const CoreEvent& event, absl::Time now) {
  actions_.clear();
  now_ = now;
  goodput_.Advance(now);
  if (!exiting_) {
    std::visit([this](const auto& e) { On(e); }, event);
    Reconcile();
  }
  if (!busy_ && mode_ != Mode::kClosing) {
    activity_ = highest_step_ > 0 ? &link::Goodput::recovering : &link::Goodput::queued;
  }
  goodput_.Switch(activity_, now);
  return std::move(actions_);
}

void TrainerCore::On(const OrderEvent& event) {
  orphaned_ |= event.order.orphaned;
  if (!event.order.desired) return;
  const link::DesiredState& desired = *event.order.desired;
  if (desired_) {
    const bool same_work =
        desired.job_id == desired_->job_id && desired.attempt == desired_->attempt;
    if (desired.attempt < desired_->attempt) return;
    if (same_work && desired.generation < desired_->generation) return;
    if (!same_work && !WantsExit(desired)) {
      return Exit(static_cast<int>(TrainerExit::kFenced),
                  absl::StrCat("job ", desired_->job_id, " attempt ", desired_->attempt,
                               " gave way to job ", desired.job_id, " attempt ", desired.attempt));
    }
  }
  desired_ = desired;
  if (observed_.stage == Stage::kUnspecified) observed_.stage = Stage::kIdle;
  observed_.job_id = desired.job_id;
  observed_.attempt = desired.attempt;
}

// Compares what is wanted with what is, and takes the next step towards it. Called after every
// event.
void TrainerCore::Reconcile() {
  if (exiting_ || !desired_ || !GiveWay()) return;
  if (WantsExit(*desired_)) {
    const TrainerExit code =
        observed_.finished ? TrainerExit::kDone : TrainerExit::kPreemptedUnsaved;
    return Exit(static_cast<int>(code), "");
  }
  if (!prepare_asked_) {
    prepare_asked_ = true;
    return Do(PrepareOp{*desired_}, &link::Goodput::queued);
  }
  if (busy_ || !facts_) return;
  if (desired_->stage >= Stage::kForm && desired_->generation > observed_.promised_generation) {
    Promise(desired_->generation);
  }
  if (mode_ != Mode::kOutside) return;
  if (orphaned_) return LeaveAsOrphan();
  if (listed_generation_ != observed_.promised_generation) {
    return Do(ListOp{}, highest_step_ > 0 ? &link::Goodput::recovering : &link::Goodput::queued);
  }
  if (desired_->stage == Stage::kGo && desired_->source && !broken_ && !observed_.finished)
    Synchronise();
}

bool TrainerCore::GenerationIsOver() const {
  return WantsExit(*desired_) ||
         (desired_->stage >= Stage::kForm && desired_->generation > observed_.promised_generation);
}

// False: something must end first. A kill waits for nothing.
bool TrainerCore::GiveWay() {
  if (!GenerationIsOver() || desired_->kill) return true;
  if (manifest_pending_) return false;  // only a rank of the current generation may write one
  if (!busy_) return true;
  if (mode_ == Mode::kOutside) return WantsExit(*desired_);
  if (!aborted_) {
    aborted_ = true;
    Note(AbortNote{});
  }
  return false;
}

// From here on nothing of a lower generation can be applied: no operation is under way, and none
// will be started.
void TrainerCore::Promise(int64_t generation) {
  if (mode_ != Mode::kOutside || observed_.promised_generation > 0) Note(DropCollectiveNote{});
  AbandonSave(/*discard=*/false);
  mode_ = Mode::kOutside;
  aborted_ = broken_ = false;
  evals_due_.clear();
  digest_.reset();
  uncommitted_.reset();
  observed_.promised_generation = generation;
  observed_.generation = generation;
  observed_.stage = Stage::kPrepare;  // kForm once the checkpoints are listed
  observed_.collective_failed = false;
  observed_.suspects.clear();
  observed_.error.clear();
}

void TrainerCore::On(const Prepared& event) {
  busy_ = false;
  if (!event.status.ok()) return Exit(ExitCodeOf(event.fault), std::string(event.status.message()));
  facts_ = event.facts;
  observed_.data_address = facts_->data_address;
  observed_.numerics = facts_->numerics;
  observed_.total_steps = facts_->total_steps;
}

void TrainerCore::On(const Listed& event) {
  busy_ = false;
  if (Failed(event)) return;
  observed_.checkpoints.clear();
  for (const link::CheckpointInfo& checkpoint : event.checkpoints) {
    if (!bad_checkpoints_.contains(checkpoint.id)) observed_.checkpoints.push_back(checkpoint);
  }
  for (const std::string& damaged : event.damaged) {
    const bool first = told_damaged_.insert(damaged).second;
    if (first && desired_ && desired_->rank == 0) {
      EmitEvent("checkpoint_bad", "damaged", absl::StrCat(damaged, "; passed over"));
    }
  }
  listed_generation_ = observed_.promised_generation;
  observed_.stage = listed_generation_ > 0 ? Stage::kForm : Stage::kPrepare;
}

void TrainerCore::Synchronise() {
  mode_ = Mode::kSyncing;
  identity_ = GenerationIdentity{
      facts_->job_hash,     desired_->attempt,
      desired_->generation, facts_->plan_hash,
      desired_->rank,       std::max(1, static_cast<int>(desired_->members.size()))};
  Do(SynchroniseOp{*desired_},
     highest_step_ > 0 ? &link::Goodput::recovering : &link::Goodput::queued);
}

void TrainerCore::On(const Synchronised& event) {
  busy_ = false;
  if (event.checkpoint_bad) {
    bad_checkpoints_.insert(event.checkpoint);
    if (reporter()) {
      EmitEvent("checkpoint_bad", "unreadable",
                absl::StrCat(event.checkpoint, ": ", event.status.message()));
    }
  }
  if (!event.status.ok()) observed_.version.reset();  // perhaps half loaded
  if (Failed(event)) return;
  observed_.version =
      link::StateVersion{identity_.generation, event.step, event.digest, event.lineage};
  observed_.step = observed_.committed_step = event.step;
  observed_.stage = Stage::kGo;
  if (observed_.numerics) observed_.numerics->collective = event.collective;
  if (!event.checkpoint.empty()) observed_.checkpoint = event.checkpoint;
  source_checkpoint_ = event.checkpoint;
  source_step_ = event.step;
  manifest_step_ = -1;
  save_deferred_ = votes_stop_ = votes_checkpoint_ = acting_stop_ = acting_checkpoint_ = false;
  skipped_in_row_ = 0;
  history_.RollBackTo(event.step);
  for (link::StepRecord& record : history_.TakeMissing()) EmitStep(record);
  if (!event.notice.empty() && reporter()) EmitEvent("numerics_changed", "resume", event.notice);
  mode_ = Mode::kTraining;
  if (GenerationIsOver()) return;
  if (event.step >= facts_->total_steps) return StartClosing(Ending::kFinished);
  if (desired_->purpose == link::Purpose::kCheckpointAndExit) return StartClosing(Ending::kStop);
  ContinueTraining();
}

void TrainerCore::On(const Left&) {
  busy_ = false;
  mode_ = Mode::kOutside;
  Note(DropCollectiveNote{});
  if (ending_ != Ending::kFinished || ending_code_ != 0) Exit(ending_code_, ending_error_);
}

// No generation to close in good order: what is newer than any checkpoint is saved under a name of
// its own.
void TrainerCore::LeaveAsOrphan() {
  const int64_t own = observed_.checkpoints.empty() ? 0 : observed_.checkpoints.front().step;
  const int64_t saved = std::max(own, facts_ ? facts_->start_step : 0);
  if (observed_.version && observed_.version->step > saved) {
    return Do(EmergencySaveOp{observed_.version->step}, &link::Goodput::checkpoint_stall);
  }
  Exit(static_cast<int>(saved > 0 ? TrainerExit::kPreemptedSaved : TrainerExit::kPreemptedUnsaved),
       "orphaned");
}

void TrainerCore::On(const EmergencySaved& event) {
  busy_ = false;
  if (event.status.ok() && !event.checkpoint.id.empty()) observed_.checkpoint = event.checkpoint.id;
  const bool saved = event.status.ok();
  Exit(static_cast<int>(saved ? TrainerExit::kPreemptedSaved : TrainerExit::kPreemptedUnsaved),
       saved ? "orphaned" : absl::StrCat("orphaned: ", event.status.message()));
}

bool TrainerCore::Failed(const Outcome& outcome) {
  if (outcome.status.ok()) return false;
  if (outcome.fault == Fault::kCollective) {
    BreakGeneration(outcome);
  } else {
    Exit(ExitCodeOf(outcome.fault), std::string(outcome.status.message()));
  }
  return true;
}

void TrainerCore::BreakGeneration(const Outcome& outcome) {
  const bool saving = save_.phase() != SaveTracker::Phase::kIdle;
  save_again_ |= saving || votes_checkpoint_ || acting_checkpoint_;
  AbandonSave(/*discard=*/false);
  mode_ = Mode::kOutside;
  broken_ = true;
  evals_due_.clear();
  digest_.reset();
  uncommitted_.reset();
  ++collective_failures_;
  Note(DropCollectiveNote{});
  observed_.collective_failed = true;
  observed_.suspects = outcome.suspects;
  observed_.error = std::string(outcome.status.message());
}

void TrainerCore::Exit(int code, std::string error) {
  exiting_ = true;
  if (!error.empty()) observed_.error = error;
  if (mode_ != Mode::kOutside) Note(AbortNote{});
  Note(ExitNote{code, std::move(error)});
}

}  // namespace vitscale
