// Records: what is reported once (steps, evaluations, checkpoints, lines, events).

#include <string>
#include <utility>

#include "google/protobuf/timestamp.pb.h"
#include "worker/link/codec_messages.h"

namespace vitscale::link {
namespace {

// Nanoseconds of a proto timestamp lie in [0, 1e9), so the division rounds down, also before 1970.
void TimeToProto(absl::Time time, google::protobuf::Timestamp* to) {
  absl::Duration rest;
  const int64_t seconds = absl::IDivDuration(time - absl::UnixEpoch(), absl::Seconds(1), &rest);
  const int64_t nanos = absl::ToInt64Nanoseconds(rest);
  to->set_seconds(nanos < 0 ? seconds - 1 : seconds);
  to->set_nanos(static_cast<int32_t>(nanos < 0 ? nanos + 1'000'000'000 : nanos));
}

absl::Time TimeFromProto(const google::protobuf::Timestamp& from) {
  return absl::FromUnixSeconds(from.seconds()) + absl::Nanoseconds(from.nanos());
}

template <typename To, typename From>
To MapTo(const From& from) {
  return To(from.begin(), from.end());
}

using StringDoubles = std::map<std::string, double>;

}  // namespace

void ToProto(const Goodput& from, v1::Goodput* to) {
  to->set_productive(from.productive);
  to->set_recomputed(from.recomputed);
  to->set_recovering(from.recovering);
  to->set_checkpoint_stall(from.checkpoint_stall);
  to->set_input_stall(from.input_stall);
  to->set_evaluation(from.evaluation);
  to->set_queued(from.queued);
  to->set_paused(from.paused);
}

Goodput FromProto(const v1::Goodput& from) {
  Goodput to;
  to.productive = from.productive();
  to.recomputed = from.recomputed();
  to.recovering = from.recovering();
  to.checkpoint_stall = from.checkpoint_stall();
  to.input_stall = from.input_stall();
  to.evaluation = from.evaluation();
  to.queued = from.queued();
  to.paused = from.paused();
  return to;
}

void ToProto(const StepRecord& from, v1::StepRecord* to) {
  to->set_step(from.step);
  to->set_images(from.images);
  to->set_loss(from.loss);
  to->set_gradient_norm(from.gradient_norm);
  to->set_learning_rate(from.learning_rate);
  to->set_parameter_norm(from.parameter_norm);
  to->set_update_norm(from.update_norm);
  to->set_train_accuracy(from.train_accuracy);
  to->set_step_seconds(from.step_seconds);
  to->mutable_phase_seconds()->insert(from.phase_seconds.begin(), from.phase_seconds.end());
  TimeToProto(from.time, to->mutable_time());
  to->set_generation(from.generation);
  to->set_skipped(from.skipped);
  to->set_lineage(from.lineage);
  to->mutable_arrival_skew_seconds()->Assign(from.arrival_skew_seconds.begin(),
                                             from.arrival_skew_seconds.end());
  to->set_resident_bytes(from.resident_bytes);
  to->set_flops(from.flops);
}

StepRecord FromProto(const v1::StepRecord& from) {
  StepRecord to;
  to.step = from.step();
  to.images = from.images();
  to.loss = from.loss();
  to.gradient_norm = from.gradient_norm();
  to.learning_rate = from.learning_rate();
  to.parameter_norm = from.parameter_norm();
  to.update_norm = from.update_norm();
  to.train_accuracy = from.train_accuracy();
  to.step_seconds = from.step_seconds();
  to.phase_seconds = MapTo<StringDoubles>(from.phase_seconds());
  to.time = TimeFromProto(from.time());
  to.generation = from.generation();
  to.skipped = from.skipped();
  to.lineage = from.lineage();
  to.arrival_skew_seconds = MapTo<std::vector<double>>(from.arrival_skew_seconds());
  to.resident_bytes = from.resident_bytes();
  to.flops = from.flops();
  return to;
}

void ToProto(const EvalRecord& from, v1::EvalRecord* to) {
  to->set_name(from.name);
  to->set_step(from.step);
  to->set_images(from.images);
  to->set_flops(from.flops);
  to->set_eval_images(from.eval_images);
  to->mutable_values()->insert(from.values.begin(), from.values.end());
  TimeToProto(from.time, to->mutable_time());
  to->set_generation(from.generation);
  to->set_seconds(from.seconds);
  to->set_final(from.final);
}

EvalRecord FromProto(const v1::EvalRecord& from) {
  EvalRecord to;
  to.name = from.name();
  to.step = from.step();
  to.images = from.images();
  to.flops = from.flops();
  to.eval_images = from.eval_images();
  to.values = MapTo<StringDoubles>(from.values());
  to.time = TimeFromProto(from.time());
  to.generation = from.generation();
  to.seconds = from.seconds();
  to.final = from.final();
  return to;
}

void ToProto(const CheckpointInfo& from, v1::CheckpointInfo* to) {
  to->set_id(from.id);
  to->set_step(from.step);
  to->set_lineage(from.lineage);
  to->set_attempt(from.attempt);
  to->set_generation(from.generation);
  to->set_bytes(from.bytes);
  to->set_digest(from.digest);
  to->set_path(from.path);
  TimeToProto(from.time, to->mutable_time());
  to->set_parent(from.parent);
  to->set_images(from.images);
  to->set_pinned(from.pinned);
  to->set_final(from.final);
  to->set_deleted(from.deleted);
}

CheckpointInfo FromProto(const v1::CheckpointInfo& from) {
  CheckpointInfo to;
  to.id = from.id();
  to.step = from.step();
  to.lineage = from.lineage();
  to.attempt = from.attempt();
  to.generation = from.generation();
  to.bytes = from.bytes();
  to.digest = from.digest();
  to.path = from.path();
  to.time = TimeFromProto(from.time());
  to.parent = from.parent();
  to.images = from.images();
  to.pinned = from.pinned();
  to.final = from.final();
  to.deleted = from.deleted();
  return to;
}

void ToProto(const LogLine& from, v1::LogLine* to) {
  to->set_sequence(from.sequence);
  TimeToProto(from.time, to->mutable_time());
  to->set_rank(from.rank);
  to->set_worker_id(from.worker_id);
  to->set_text(from.text);
  to->set_attempt(from.attempt);
}

LogLine FromProto(const v1::LogLine& from) {
  LogLine to;
  to.sequence = from.sequence();
  to.time = TimeFromProto(from.time());
  to.rank = from.rank();
  to.worker_id = from.worker_id();
  to.text = from.text();
  to.attempt = from.attempt();
  return to;
}

void ToProto(const Event& from, v1::Event* to) {
  TimeToProto(from.time, to->mutable_time());
  to->set_job_id(from.job_id);
  to->set_worker_id(from.worker_id);
  to->set_kind(from.kind);
  to->set_reason(from.reason);
  to->set_message(from.message);
  to->set_attempt(from.attempt);
  to->set_generation(from.generation);
  to->set_step(from.step);
}

Event FromProto(const v1::Event& from) {
  Event to;
  to.time = TimeFromProto(from.time());
  to.job_id = from.job_id();
  to.worker_id = from.worker_id();
  to.kind = from.kind();
  to.reason = from.reason();
  to.message = from.message();
  to.attempt = from.attempt();
  to.generation = from.generation();
  to.step = from.step();
  return to;
}

void ToProto(const Gap& from, v1::Gap* to) {
  to->set_first_step(from.first_step);
  to->set_last_step(from.last_step);
}

Gap FromProto(const v1::Gap& from) { return {from.first_step(), from.last_step()}; }

namespace {

struct RecordToProto {
  v1::SpooledRecord* to;
  void operator()(const std::monostate&) const {}
  void operator()(const StepRecord& from) const { ToProto(from, to->mutable_step()); }
  void operator()(const EvalRecord& from) const { ToProto(from, to->mutable_eval()); }
  void operator()(const CheckpointInfo& from) const { ToProto(from, to->mutable_checkpoint()); }
  void operator()(const LogLine& from) const { ToProto(from, to->mutable_log()); }
  void operator()(const Event& from) const { ToProto(from, to->mutable_event()); }
  void operator()(const Gap& from) const { ToProto(from, to->mutable_gap()); }
};

}  // namespace

void ToProto(const SpooledRecord& from, v1::SpooledRecord* to) {
  to->set_number(from.number);
  to->set_incarnation(from.incarnation);
  to->set_job_id(from.job_id);
  to->set_attempt(from.attempt);
  to->set_generation(from.generation);
  std::visit(RecordToProto{to}, from.record);
}

SpooledRecord FromProto(const v1::SpooledRecord& from) {
  SpooledRecord to;
  to.number = from.number();
  to.incarnation = from.incarnation();
  to.job_id = from.job_id();
  to.attempt = from.attempt();
  to.generation = from.generation();
  switch (from.record_case()) {
    case v1::SpooledRecord::kStep:
      to.record = FromProto(from.step());
      break;
    case v1::SpooledRecord::kEval:
      to.record = FromProto(from.eval());
      break;
    case v1::SpooledRecord::kCheckpoint:
      to.record = FromProto(from.checkpoint());
      break;
    case v1::SpooledRecord::kLog:
      to.record = FromProto(from.log());
      break;
    case v1::SpooledRecord::kEvent:
      to.record = FromProto(from.event());
      break;
    case v1::SpooledRecord::kGap:
      to.record = FromProto(from.gap());
      break;
    case v1::SpooledRecord::RECORD_NOT_SET:
      break;
  }
  return to;
}

}  // namespace vitscale::link
