// What users and new agents ask of the coordinator: each waits for the core's answer, which follows
// its commit.

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "proto/spec/job_spec.h"
#include "server/api/coordinator.h"
#include "server/api/plan_devices.h"
#include "server/api/start_point.h"
#include "worker/config/micro_batch.h"

namespace vitscale {
namespace {

// Compares in a time that does not depend on where they differ.
bool SameSecret(const std::string& a, const std::string& b) {
  unsigned difference = static_cast<unsigned>(a.size() ^ b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b[b.empty() ? 0 : i % b.size()]);
  }
  return difference == 0;
}

}  // namespace

template <typename T>
bool Coordinator::AnsweredBefore(const Caller& caller, const Reply<T>& reply) {
  if (caller.request_id.empty()) return false;
  const auto found = control_->FindRequest(caller.request_id);
  if (!found.ok()) {
    reply(absl::UnavailableError(found.status().message()));
    return true;
  }
  if (!found->has_value()) return false;
  T answer;
  if ((*found)->hash != caller.request_hash || !answer.ParseFromString((*found)->answer)) {
    reply(absl::AlreadyExistsError(
        absl::StrCat("request id '", caller.request_id, "' was used with another request")));
  } else {
    reply(std::move(answer));
  }
  return true;
}

template <typename T>
Token Coordinator::Expect(Reply<T> reply) {
  const Token token = next_token_++;
  answerers_[token] = [reply = std::move(reply)](AnswerAction answer) {
    if (!answer.status.ok()) return reply(answer.status);
    auto* body = std::get_if<T>(&answer.body);
    if (body == nullptr)
      return reply(absl::AlreadyExistsError("the request id was used with another request"));
    reply(std::move(*body));
  };
  return token;
}

RequestMeta Coordinator::MetaOf(const Caller& caller, Token token) const {
  return {token, caller.request_id, caller.request_hash, caller.principal};
}

// Canonical form with a complete `from`, and the micro-batch that fits whatever the job may be
// placed on.
absl::StatusOr<Coordinator::Admitted> Coordinator::Admit(const v1::JobSpec& spec) const {
  v1::JobSpec given = spec;
  VITSCALE_RETURN_IF_ERROR(CompleteStart(directory_, *control_, &given));
  VITSCALE_ASSIGN_OR_RETURN(v1::JobSpec canonical, Canonicalize(given));
  VITSCALE_RETURN_IF_ERROR(CheckStartPoint(directory_, canonical));
  std::vector<DeviceLimits> devices;
  if (canonical.batch().micro() == 0) devices = DevicesFor(canonical, WorkersSnapshot());
  VITSCALE_ASSIGN_OR_RETURN(FixedSpec fixed, FixMicroBatch(SpecBytes(canonical), devices));
  Admitted admitted{{}, std::move(fixed.planned_for)};
  if (!admitted.spec.ParseFromString(fixed.spec_bytes))
    return absl::InternalError("the planner's spec cannot be read");
  return admitted;
}

void Coordinator::Submit(const Caller& caller, const v1::JobSpec& spec, bool validate_only,
                         Reply<v1::Job> reply) {
  if (!validate_only && AnsweredBefore<v1::Job>(caller, reply)) return;
  absl::StatusOr<Admitted> admitted = Admit(spec);
  if (!admitted.ok()) return reply(admitted.status());
  if (validate_only) {
    v1::Job job;
    *job.mutable_spec() = std::move(admitted->spec);
    job.set_message(std::move(admitted->planned_for));
    return reply(std::move(job));
  }
  Post([this, caller, job = *std::move(admitted), reply = std::move(reply)] {
    Handle(SubmitEvent{MetaOf(caller, Expect<v1::Job>(reply)), job.spec, job.planned_for});
  });
}

void Coordinator::SetIntent(const Caller& caller, const v1::SetIntentRequest& request,
                            Reply<v1::Job> reply) {
  if (AnsweredBefore<v1::Job>(caller, reply)) return;
  const auto row = directory_.Find(request.job_id());
  if (!row.ok()) return reply(row.status());
  Post([this, caller, request, id = (*row)->job().id(), reply = std::move(reply)] {
    Handle(
        IntentEvent{MetaOf(caller, Expect<v1::Job>(reply)), id, request.intent(), request.etag()});
  });
}

void Coordinator::UpdateWorker(const Caller& caller, const v1::UpdateWorkerRequest& request,
                               Reply<v1::Worker> reply) {
  if (AnsweredBefore<v1::Worker>(caller, reply)) return;
  Post([this, caller, request, reply = std::move(reply)] {
    UpdateWorkerEvent event{MetaOf(caller, Expect<v1::Worker>(reply)), request.worker_id()};
    event.release = request.action_case() == v1::UpdateWorkerRequest::kRelease && request.release();
    if (request.action_case() == v1::UpdateWorkerRequest::kDrain) event.drain = request.drain();
    Handle(event);
  });
}

void Coordinator::PinCheckpoint(const Caller& caller, const v1::PinCheckpointRequest& request,
                                Reply<v1::CheckpointInfo> reply) {
  if (AnsweredBefore<v1::CheckpointInfo>(caller, reply)) return;
  absl::StatusOr<v1::CheckpointInfo> info = control_->Checkpoint(request.checkpoint_id());
  if (!info.ok()) return reply(info.status());
  if (info->deleted()) {
    return reply(absl::FailedPreconditionError(
        absl::StrCat("checkpoint '", info->id(), "' has been deleted by retention")));
  }
  Post(
      [this, caller, pinned = request.pinned(), info = *std::move(info), reply = std::move(reply)] {
        Handle(PinEvent{MetaOf(caller, Expect<v1::CheckpointInfo>(reply)), info, pinned});
      });
}

void Coordinator::ListWorkers(Reply<std::vector<v1::Worker>> reply) {
  Post([this, reply = std::move(reply)] {
    Handle(ListWorkersEvent{Expect<std::vector<v1::Worker>>(reply)});
  });
}

void Coordinator::Register(const v1::RegisterRequest& request, Reply<v1::RegisterResponse> reply) {
  if (!options_.join_secret.empty() && !SameSecret(request.join_secret(), options_.join_secret)) {
    return reply(absl::PermissionDeniedError(
        absl::StrCat("worker '", request.worker_id(), "' gave ",
                     request.join_secret().empty() ? "no" : "a wrong", " join secret")));
  }
  v1::RegisterRequest clean = request;
  clean.clear_join_secret();
  Post([this, clean = std::move(clean), reply = std::move(reply)] {
    Reply<Registered> registered = [this, clean, reply](absl::StatusOr<Registered> result) {
      if (!result.ok()) return reply(result.status());
      v1::RegisterResponse response;
      response.set_credential(result->credential);
      response.set_term(term());
      response.set_heartbeat_seconds(absl::ToDoubleSeconds(options_.core.heartbeat));
      response.set_lease_seconds(absl::ToDoubleSeconds(options_.core.lease));
      response.set_orphan_window_seconds(absl::ToDoubleSeconds(options_.core.orphan_window));
      reply(std::move(response));
    };
    Handle(RegisterEvent{Expect<Registered>(std::move(registered)), clean});
  });
}

}  // namespace vitscale
