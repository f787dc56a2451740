// States and orders: what is sent whole, again and again.

#include "worker/link/codec_messages.h"

#include <string>
#include <utility>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace vitscale::link {
namespace {

// Enums of messages.h carry the protocol's numbers; a number of a newer peer becomes kUnspecified
// (0).
template <typename To, typename From>
To EnumFromProto(From from, bool valid) {
  return static_cast<To>(valid ? static_cast<int>(from) : 0);
}

Stage StageFromProto(v1::Stage from) {
  return EnumFromProto<Stage>(from, v1::Stage_IsValid(static_cast<int>(from)));
}

Purpose PurposeFromProto(v1::Purpose from) {
  return EnumFromProto<Purpose>(from, v1::Purpose_IsValid(static_cast<int>(from)));
}

Intent IntentFromProto(v1::Intent from) {
  return EnumFromProto<Intent>(from, v1::Intent_IsValid(static_cast<int>(from)));
}

Precision PrecisionFromProto(v1::Precision from) {
  return EnumFromProto<Precision>(from, v1::Precision_IsValid(static_cast<int>(from)));
}

// Equal specs must give equal bytes, since states are compared to find changes; map entries have no
// order else.
std::string SpecBytes(const v1::JobSpec& spec) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  spec.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

}  // namespace

void ToProto(const Member& from, v1::Member* to) {
  to->set_rank(from.rank);
  to->set_worker_id(from.worker_id);
  to->set_incarnation(from.incarnation);
  to->set_data_address(from.data_address);
}

Member FromProto(const v1::Member& from) {
  return {from.rank(), from.worker_id(), from.incarnation(), from.data_address()};
}

void ToProto(const StateVersion& from, v1::StateVersion* to) {
  to->set_established_generation(from.established_generation);
  to->set_step(from.step);
  to->set_digest(from.digest);
  to->set_lineage(from.lineage);
}

StateVersion FromProto(const v1::StateVersion& from) {
  return {from.established_generation(), from.step(), from.digest(), from.lineage()};
}

void ToProto(const Rendezvous& from, v1::Rendezvous* to) {
  to->set_secret(from.secret);
  to->set_deadline_seconds(from.deadline_seconds);
}

Rendezvous FromProto(const v1::Rendezvous& from) {
  return {from.secret(), from.deadline_seconds()};
}

void ToProto(const Source& from, v1::Source* to) {
  if (from.kind == Source::Kind::kInitialise) to->set_initialise(true);
  if (from.kind == Source::Kind::kCheckpoint) to->set_checkpoint(from.checkpoint);
  if (from.kind == Source::Kind::kRank) to->set_rank(from.rank);
  if (from.version) ToProto(*from.version, to->mutable_version());
}

Source FromProto(const v1::Source& from) {
  Source to;
  switch (from.from_case()) {
    case v1::Source::kInitialise:
      to.kind = Source::Kind::kInitialise;
      break;
    case v1::Source::kCheckpoint:
      to.kind = Source::Kind::kCheckpoint;
      to.checkpoint = from.checkpoint();
      break;
    case v1::Source::kRank:
      to.kind = Source::Kind::kRank;
      to.rank = from.rank();
      break;
    case v1::Source::FROM_NOT_SET:
      break;
  }
  if (from.has_version()) to.version = FromProto(from.version());
  return to;
}

void ToProto(const NumericsRecord& from, v1::NumericsRecord* to) {
  to->set_backend(from.backend);
  to->set_build(from.build);
  to->set_instruction_set(from.instruction_set);
  to->set_libraries(from.libraries);
  to->set_precision(static_cast<v1::Precision>(from.precision));
  to->set_world_size(from.world_size);
  to->set_batch_micro(from.batch_micro);
  to->set_collective(from.collective);
  to->set_bucket_bytes(from.bucket_bytes);
  to->set_recompute(from.recompute);
  to->set_residual(from.residual);
  to->set_choices(from.choices);
}

NumericsRecord FromProto(const v1::NumericsRecord& from) {
  NumericsRecord to;
  to.backend = from.backend();
  to.build = from.build();
  to.instruction_set = from.instruction_set();
  to.libraries = from.libraries();
  to.precision = PrecisionFromProto(from.precision());
  to.world_size = from.world_size();
  to.batch_micro = from.batch_micro();
  to.collective = from.collective();
  to.bucket_bytes = from.bucket_bytes();
  to.recompute = from.recompute();
  if (!from.residual().empty()) to.residual = from.residual();
  to.choices = from.choices();
  return to;
}

void ToProto(const DesiredState& from, v1::DesiredState* to) {
  to->set_job_id(from.job_id);
  to->set_attempt(from.attempt);
  to->set_generation(from.generation);
  to->set_stage(static_cast<v1::Stage>(from.stage));
  for (const Member& member : from.members) ToProto(member, to->add_members());
  to->set_rank(from.rank);
  if (from.rendezvous) ToProto(*from.rendezvous, to->mutable_rendezvous());
  if (from.source) ToProto(*from.source, to->mutable_source());
  to->set_purpose(static_cast<v1::Purpose>(from.purpose));
  if (!from.spec_bytes.empty() && !to->mutable_spec()->ParseFromString(from.spec_bytes)) {
    to->clear_spec();
  }
  if (from.numerics) ToProto(*from.numerics, to->mutable_numerics());
  to->set_intent(static_cast<v1::Intent>(from.intent));
  to->set_kill(from.kill);
  to->set_grace_seconds(from.grace_seconds);
  to->set_lineage(from.lineage);
  to->set_instruction_set(from.instruction_set);
  to->set_precision(static_cast<v1::Precision>(from.precision));
  for (const std::string& id : from.pinned_checkpoints) to->add_pinned_checkpoints(id);
}

DesiredState FromProto(const v1::DesiredState& from) {
  DesiredState to;
  to.job_id = from.job_id();
  to.attempt = from.attempt();
  to.generation = from.generation();
  to.stage = StageFromProto(from.stage());
  for (const v1::Member& member : from.members()) to.members.push_back(FromProto(member));
  to.rank = from.rank();
  if (from.has_rendezvous()) to.rendezvous = FromProto(from.rendezvous());
  if (from.has_source()) to.source = FromProto(from.source());
  to.purpose = PurposeFromProto(from.purpose());
  if (from.has_spec()) to.spec_bytes = SpecBytes(from.spec());
  if (from.has_numerics()) to.numerics = FromProto(from.numerics());
  to.intent = IntentFromProto(from.intent());
  to.kill = from.kill();
  to.grace_seconds = from.grace_seconds();
  to.lineage = from.lineage();
  to.instruction_set = from.instruction_set();
  to.precision = PrecisionFromProto(from.precision());
  to.pinned_checkpoints = {from.pinned_checkpoints().begin(), from.pinned_checkpoints().end()};
  return to;
}

void ToProto(const DeviceUse& from, v1::DeviceUse* to) {
  to->set_used_bytes(from.used_bytes);
  to->set_free_bytes(from.free_bytes);
  to->set_foreign_processes(from.foreign_processes);
  to->set_dirty(from.dirty);
}

DeviceUse FromProto(const v1::DeviceUse& from) {
  return {from.used_bytes(), from.free_bytes(), from.foreign_processes(), from.dirty()};
}

void ToProto(const ObservedState& from, v1::ObservedState* to) {
  to->set_job_id(from.job_id);
  to->set_attempt(from.attempt);
  to->set_generation(from.generation);
  to->set_stage(static_cast<v1::Stage>(from.stage));
  if (from.version) ToProto(*from.version, to->mutable_version());
  for (const CheckpointInfo& info : from.checkpoints) ToProto(info, to->add_checkpoints());
  to->set_promised_generation(from.promised_generation);
  to->set_step(from.step);
  to->set_committed_step(from.committed_step);
  to->set_collective_failed(from.collective_failed);
  to->mutable_suspects()->Assign(from.suspects.begin(), from.suspects.end());
  to->set_exited(from.exited);
  to->set_exit_code(from.exit_code);
  to->set_error(from.error);
  to->set_data_address(from.data_address);
  if (from.numerics) ToProto(*from.numerics, to->mutable_numerics());
  to->set_checkpoint(from.checkpoint);
  to->set_finished(from.finished);
  to->set_device_free(from.device_free);
  to->set_draining(from.draining);
  to->set_trainer_pid(from.trainer_pid);
  to->set_spooled(from.spooled);
  to->set_total_steps(from.total_steps);
  if (from.device_use) ToProto(*from.device_use, to->mutable_device_use());
}

ObservedState FromProto(const v1::ObservedState& from) {
  ObservedState to;
  to.job_id = from.job_id();
  to.attempt = from.attempt();
  to.generation = from.generation();
  to.stage = StageFromProto(from.stage());
  if (from.has_version()) to.version = FromProto(from.version());
  for (const v1::CheckpointInfo& info : from.checkpoints()) {
    to.checkpoints.push_back(FromProto(info));
  }
  to.promised_generation = from.promised_generation();
  to.step = from.step();
  to.committed_step = from.committed_step();
  to.collective_failed = from.collective_failed();
  to.suspects = {from.suspects().begin(), from.suspects().end()};
  to.exited = from.exited();
  to.exit_code = from.exit_code();
  to.error = from.error();
  to.data_address = from.data_address();
  if (from.has_numerics()) to.numerics = FromProto(from.numerics());
  to.checkpoint = from.checkpoint();
  to.finished = from.finished();
  to.device_free = from.device_free();
  to.draining = from.draining();
  to.trainer_pid = from.trainer_pid();
  to.spooled = from.spooled();
  to.total_steps = from.total_steps();
  if (from.has_device_use()) to.device_use = FromProto(from.device_use());
  return to;
}

void ToProto(const TrainerSetup& from, v1::TrainerSetup* to) {
  to->set_worker_id(from.worker_id);
  to->set_device(from.device);
  to->set_threads(from.threads);
  for (const std::string& root : from.data_roots) to->add_data_roots(root);
  for (const std::string& root : from.checkpoint_roots) to->add_checkpoint_roots(root);
  to->set_data_address(from.data_address);
  to->set_faults(from.faults);
  to->set_instruction_set(from.instruction_set);
}

TrainerSetup FromProto(const v1::TrainerSetup& from) {
  TrainerSetup to;
  to.worker_id = from.worker_id();
  to.device = from.device();
  to.threads = from.threads();
  to.data_roots = {from.data_roots().begin(), from.data_roots().end()};
  to.checkpoint_roots = {from.checkpoint_roots().begin(), from.checkpoint_roots().end()};
  to.data_address = from.data_address();
  to.faults = from.faults();
  to.instruction_set = from.instruction_set();
  return to;
}

void ToProto(const TrainerOrder& from, v1::TrainerOrder* to) {
  if (from.desired) ToProto(*from.desired, to->mutable_desired());
  if (from.setup) ToProto(*from.setup, to->mutable_setup());
  to->set_orphaned(from.orphaned);
  to->set_spooled(from.spooled);
}

TrainerOrder FromProto(const v1::TrainerOrder& from) {
  TrainerOrder to;
  if (from.has_desired()) to.desired = FromProto(from.desired());
  if (from.has_setup()) to.setup = FromProto(from.setup());
  to.orphaned = from.orphaned();
  to.spooled = from.spooled();
  return to;
}

void ToProto(const TrainerMetrics& from, v1::TrainerMetrics* to) {
  if (from.last_step) ToProto(*from.last_step, to->mutable_last_step());
  to->mutable_phase_seconds_total()->insert(from.phase_seconds_total.begin(),
                                            from.phase_seconds_total.end());
  to->set_images_total(from.images_total);
  to->set_input_wait_seconds_total(from.input_wait_seconds_total);
  to->set_collective_failures_total(from.collective_failures_total);
  to->set_checkpoint_save_seconds(from.checkpoint_save_seconds);
  to->set_checkpoint_bytes(from.checkpoint_bytes);
  to->set_checkpoint_failures_total(from.checkpoint_failures_total);
  to->set_checkpoint_step(from.checkpoint_step);
  to->set_data_read_bytes_total(from.data_read_bytes_total);
  to->set_resident_bytes(from.resident_bytes);
  to->set_nonfinite_total(from.nonfinite_total);
  to->set_flops_per_second(from.flops_per_second);
  to->set_checkpoint_timestamp_seconds(from.checkpoint_timestamp_seconds);
  ToProto(from.goodput, to->mutable_goodput());
  to->mutable_collective_bytes_total()->insert(from.collective_bytes_total.begin(),
                                               from.collective_bytes_total.end());
}

TrainerMetrics FromProto(const v1::TrainerMetrics& from) {
  TrainerMetrics to;
  if (from.has_last_step()) to.last_step = FromProto(from.last_step());
  to.phase_seconds_total = {from.phase_seconds_total().begin(), from.phase_seconds_total().end()};
  to.images_total = from.images_total();
  to.input_wait_seconds_total = from.input_wait_seconds_total();
  to.collective_failures_total = from.collective_failures_total();
  to.checkpoint_save_seconds = from.checkpoint_save_seconds();
  to.checkpoint_bytes = from.checkpoint_bytes();
  to.checkpoint_failures_total = from.checkpoint_failures_total();
  to.checkpoint_step = from.checkpoint_step();
  to.data_read_bytes_total = from.data_read_bytes_total();
  to.resident_bytes = from.resident_bytes();
  to.nonfinite_total = from.nonfinite_total();
  to.flops_per_second = from.flops_per_second();
  to.checkpoint_timestamp_seconds = from.checkpoint_timestamp_seconds();
  to.goodput = FromProto(from.goodput());
  to.collective_bytes_total = {from.collective_bytes_total().begin(),
                               from.collective_bytes_total().end()};
  return to;
}

void ToProto(const TrainerReport& from, v1::TrainerReport* to) {
  if (from.observed) ToProto(*from.observed, to->mutable_observed());
  for (const SpooledRecord& record : from.records) ToProto(record, to->add_records());
  if (from.metrics) ToProto(*from.metrics, to->mutable_metrics());
}

TrainerReport FromProto(const v1::TrainerReport& from) {
  TrainerReport to;
  if (from.has_observed()) to.observed = FromProto(from.observed());
  for (const v1::SpooledRecord& record : from.records()) to.records.push_back(FromProto(record));
  if (from.has_metrics()) to.metrics = FromProto(from.metrics());
  return to;
}

}  // namespace vitscale::link
