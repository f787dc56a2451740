// Struct by struct between messages.h and the protocol. For codec.cc and the agent, which may see
// protobuf.

#ifndef WORKER_LINK_CODEC_MESSAGES_H_
#define WORKER_LINK_CODEC_MESSAGES_H_

#include "vitscale/v1/job.pb.h"
#include "vitscale/v1/trainer_link.pb.h"
#include "vitscale/v1/worker_service.pb.h"
#include "worker/link/messages.h"

namespace vitscale::link {

// ToProto writes into a fresh or cleared message.
void ToProto(const Member& from, v1::Member* to);
void ToProto(const StateVersion& from, v1::StateVersion* to);
void ToProto(const Rendezvous& from, v1::Rendezvous* to);
void ToProto(const Source& from, v1::Source* to);
void ToProto(const NumericsRecord& from, v1::NumericsRecord* to);
void ToProto(const Goodput& from, v1::Goodput* to);
void ToProto(const StepRecord& from, v1::StepRecord* to);
void ToProto(const EvalRecord& from, v1::EvalRecord* to);
void ToProto(const CheckpointInfo& from, v1::CheckpointInfo* to);
void ToProto(const LogLine& from, v1::LogLine* to);
void ToProto(const Event& from, v1::Event* to);
void ToProto(const Gap& from, v1::Gap* to);
void ToProto(const SpooledRecord& from, v1::SpooledRecord* to);
// spec_bytes that are no JobSpec are left out.
void ToProto(const DesiredState& from, v1::DesiredState* to);
void ToProto(const DeviceUse& from, v1::DeviceUse* to);
void ToProto(const ObservedState& from, v1::ObservedState* to);
void ToProto(const TrainerSetup& from, v1::TrainerSetup* to);
void ToProto(const TrainerOrder& from, v1::TrainerOrder* to);
void ToProto(const TrainerMetrics& from, v1::TrainerMetrics* to);
void ToProto(const TrainerReport& from, v1::TrainerReport* to);

Member FromProto(const v1::Member& from);
StateVersion FromProto(const v1::StateVersion& from);
Rendezvous FromProto(const v1::Rendezvous& from);
Source FromProto(const v1::Source& from);
NumericsRecord FromProto(const v1::NumericsRecord& from);
Goodput FromProto(const v1::Goodput& from);
StepRecord FromProto(const v1::StepRecord& from);
EvalRecord FromProto(const v1::EvalRecord& from);
CheckpointInfo FromProto(const v1::CheckpointInfo& from);
LogLine FromProto(const v1::LogLine& from);
Event FromProto(const v1::Event& from);
Gap FromProto(const v1::Gap& from);
SpooledRecord FromProto(const v1::SpooledRecord& from);
DesiredState FromProto(const v1::DesiredState& from);
DeviceUse FromProto(const v1::DeviceUse& from);
ObservedState FromProto(const v1::ObservedState& from);
TrainerSetup FromProto(const v1::TrainerSetup& from);
TrainerOrder FromProto(const v1::TrainerOrder& from);
TrainerMetrics FromProto(const v1::TrainerMetrics& from);
TrainerReport FromProto(const v1::TrainerReport& from);

}  // namespace vitscale::link

#endif  // WORKER_LINK_CODEC_MESSAGES_H_
