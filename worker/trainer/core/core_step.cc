// A step: exchange, gate, update; then what is due at its boundary. See core.h.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/trainer/core/core.h"

namespace vitscale {
namespace {

constexpr int64_t kDigestEvery = 100;  // steps

}  // namespace

// At a boundary between steps, nothing under way.
void TrainerCore::ContinueTraining() {
  if (GenerationIsOver()) return;
  if (!evals_due_.empty()) {
    return Do(EvaluateOp{evals_due_.front(), observed_.version->step, false},
              &link::Goodput::evaluation);
  }
  StartStep();
}

void TrainerCore::StartStep() {
  step_began_ = now_;
  const ControlRecord record = NextRecord(digest_);
  Do(StepOp{record, step_deadline_.Next()},
     record.step <= highest_step_ ? &link::Goodput::recomputed : &link::Goodput::productive);
}

ControlRecord TrainerCore::NextRecord(std::optional<uint64_t> digest) const {
  ControlRecord record = MakeRecord(identity_, observed_.version->step + 1);
  record.set(RecordFlag::kStop, desired_->intent > link::Intent::kRun || orphaned_);
  record.set(RecordFlag::kCheckpoint, save_again_);
  record.set(RecordFlag::kHasDigest, digest.has_value());
  record.digest = digest.value_or(0);
  save_.Describe(record);
  return record;
}

void TrainerCore::On(const Exchanged& event) {
  busy_ = false;
  if (Failed(event) || GenerationIsOver()) return;
  exchanged_ = event;
  const bool closing = mode_ == Mode::kClosing;
  auto agreement = CheckRecords(identity_, observed_.version->step + 1, closing,
                                closing ? 0 : facts_->batch_global, exchanged_.records);
  if (!agreement.ok()) {
    Outcome outcome{agreement.status(), Fault::kCollective, DigestMinority(exchanged_.records)};
    if (absl::IsDataLoss(agreement.status()))
      observed_.version.reset();  // nobody's state is to be trusted
    return BreakGeneration(outcome);
  }
  agreement_ = *std::move(agreement);
  if (agreement_.digest) digest_.reset();  // it has been told
  if (agreement_.checkpoint) save_again_ = false;
  acting_stop_ = std::exchange(votes_stop_, agreement_.stop);
  acting_checkpoint_ = std::exchange(votes_checkpoint_, agreement_.checkpoint);
  CommitPreviousStep();
  closing ? OnClosingAgreed() : OnStepAgreed();
}

// All ranks came to this exchange, so all had applied the step before.
void TrainerCore::CommitPreviousStep() {
  observed_.committed_step = observed_.version->step;
  if (!uncommitted_) return;
  link::StepRecord record = *std::exchange(uncommitted_, std::nullopt);
  if (reporter()) EmitStep(record);
  history_.Add(std::move(record), reporter());
}

void TrainerCore::OnStepAgreed() {
  JudgeSave();
  if (save_.phase() == SaveTracker::Phase::kDue && agreement_.digest) return TakeSnapshot();
  ApplyAgreed();
}

void TrainerCore::ApplyAgreed() {
  const int64_t step = observed_.version->step + 1;
  const bool want_digest = step % kDigestEvery == 0 || SaveDueAfter(step) || EndsAfter(step);
  Do(ApplyOp{step, !agreement_.non_finite, want_digest}, activity_);
}

// The same on every rank: it depends on the step and on what exchanges showed.
bool TrainerCore::SaveDueAfter(int64_t step) const {
  return save_.phase() == SaveTracker::Phase::kIdle &&
         (step % facts_->checkpoint_every == 0 || acting_checkpoint_ || save_deferred_);
}

void TrainerCore::On(const Applied& event) {
  busy_ = false;
  if (Failed(event)) return;
  const int64_t step = ++observed_.version->step;
  const bool digested = event.digest != 0;
  observed_.version->digest = event.digest;
  observed_.step = step;
  if (digested) digest_ = event.digest;
  uncommitted_ = last_step_ = MakeStepRecord(event);
  step_deadline_.Add(now_ - step_began_);
  goodput_.Move(exchanged_.input_wait_seconds, activity_, &link::Goodput::input_stall);
  highest_step_ = std::max(highest_step_, step);
  skipped_in_row_ = event.skipped ? skipped_in_row_ + 1 : 0;
  if (event.skipped) ++non_finite_steps_;
  if (event.skipped && (!facts_->skip_non_finite || skipped_in_row_ > facts_->skips_max)) {
    return StartClosing(
        Ending::kNonFinite,
        absl::StrCat("step ", step, ": loss ", uncommitted_->loss, ", gradient norm ",
                     event.gradient_norm, ": not finite, ", skipped_in_row_, " in a row"));
  }
  AfterStep();
}

void TrainerCore::AfterStep() {
  const int64_t step = observed_.version->step;
  if (GenerationIsOver()) return;
  if (EndsAfter(step)) {
    return StartClosing(step >= facts_->total_steps ? Ending::kFinished : Ending::kStop);
  }
  if (SaveDueAfter(step)) {
    save_.MakeDue(step);
    save_deferred_ = false;
  } else if (step % facts_->checkpoint_every == 0 || acting_checkpoint_) {
    save_deferred_ = true;  // one is still under way
  }
  for (size_t i = 0; i < facts_->eval_every.size(); ++i) {
    const int64_t every = facts_->eval_every[i];
    if (every > 0 && step % every == 0) evals_due_.push_back(static_cast<int>(i));
  }
  ContinueTraining();
}

link::StepRecord TrainerCore::MakeStepRecord(const Applied& event) const {
  link::StepRecord record;
  record.step = observed_.version->step;
  record.images = record.step * facts_->batch_global;
  record.flops = static_cast<double>(record.images) * facts_->training_flops_per_image;
  record.loss = agreement_.loss_sum / static_cast<double>(facts_->batch_global);
  record.train_accuracy =
      static_cast<double>(agreement_.correct) / static_cast<double>(facts_->batch_global);
  record.gradient_norm = event.gradient_norm;
  record.parameter_norm = event.parameter_norm;
  record.update_norm = event.update_norm;
  record.learning_rate = event.learning_rate;
  record.skipped = event.skipped;
  record.step_seconds = absl::ToDoubleSeconds(now_ - step_began_);
  record.phase_seconds = exchanged_.phase_seconds;
  for (const auto& [phase, seconds] : event.phase_seconds) record.phase_seconds[phase] += seconds;
  record.generation = identity_.generation;
  record.lineage = observed_.version->lineage;
  record.arrival_skew_seconds = agreement_.arrival_skew_seconds;
  return record;
}

void TrainerCore::On(const Evaluated& event) {
  busy_ = false;
  if (Failed(event) || GenerationIsOver()) return;
  evals_due_.erase(evals_due_.begin());
  if (reporter()) {
    link::EvalRecord record = event.record;
    record.generation = identity_.generation;
    link::SpooledRecord spooled;
    spooled.record = std::move(record);
    Emit(std::move(spooled));
  }
  mode_ == Mode::kClosing ? ContinueClosing() : ContinueTraining();
}

void TrainerCore::EmitStep(const link::StepRecord& record) {
  link::SpooledRecord spooled;
  spooled.record = record;
  Emit(std::move(spooled));
}

void TrainerCore::EmitEvent(std::string kind, std::string reason, std::string message) {
  link::Event event;
  event.kind = std::move(kind);
  event.reason = std::move(reason);
  event.message = std::move(message);
  event.job_id = desired_->job_id;
  event.attempt = desired_->attempt;
  event.generation = identity_.generation;
  event.step = observed_.step;
  link::SpooledRecord spooled;
  spooled.record = std::move(event);
  Emit(std::move(spooled));
}

void TrainerCore::Emit(link::SpooledRecord record) {
  record.job_id = desired_->job_id;
  record.attempt = desired_->attempt;
  if (record.generation == 0) record.generation = identity_.generation;
  Note(EmitNote{std::move(record)});
}

}  // namespace vitscale
