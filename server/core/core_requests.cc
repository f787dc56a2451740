// What users ask of the core: mutations with their request ids, and the list of workers.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/core/convert.h"
#include "server/core/core.h"

namespace vitscale {
namespace {

std::string SerialiseAnswer(const AnswerBody& body) {
  if (const auto* job = std::get_if<v1::Job>(&body)) return job->SerializeAsString();
  if (const auto* worker = std::get_if<v1::Worker>(&body)) return worker->SerializeAsString();
  if (const auto* info = std::get_if<v1::CheckpointInfo>(&body)) return info->SerializeAsString();
  return "";
}

absl::Status WhyRefused(const v1::Job& job, v1::Intent wanted) {
  const std::string noun = absl::StrCat("job ", job.id(), " (", job.spec().name(), ")");
  if (job.state() == v1::JOB_STATE_SUCCEEDED || job.state() == v1::JOB_STATE_FAILED) {
    return absl::FailedPreconditionError(
        absl::StrCat(noun, " has already ", JobStateName(job.state())));
  }
  if (job.state() == v1::JOB_STATE_CANCELLED) {
    return absl::FailedPreconditionError(absl::StrCat(noun, " has already been CANCELLED"));
  }
  return absl::FailedPreconditionError(absl::StrCat(noun, " is ", JobStateName(job.state()),
                                                    " with intent ", IntentName(job.intent()),
                                                    ": it cannot be set to ", IntentName(wanted)));
}

}  // namespace

void Core::Refuse(Token token, absl::Status status) {
  Defer(Action(AnswerAction{token, std::move(status), {}}));
}

// True if the answer is known already (or on its way to the disk): it is given again.
bool Core::Repeated(const RequestMeta& meta) {
  if (meta.request_id.empty()) return false;
  const auto it = remembered_.find(meta.request_id);
  if (it == remembered_.end()) return false;
  if (it->second.hash != meta.hash) {
    Refuse(meta.token, absl::AlreadyExistsError(absl::StrCat("request id '", meta.request_id,
                                                             "' was used with another request")));
  } else {
    Defer(Action(AnswerAction{meta.token, absl::OkStatus(), it->second.body}));
  }
  return true;
}

// False if the request has been answered: a repetition, or the store takes nothing now.
bool Core::Admit(const RequestMeta& meta) {
  if (Repeated(meta)) return false;
  if (writable_) return true;
  out_.push_back(
      AnswerAction{meta.token,
                   absl::UnavailableError("the coordinator's store takes no changes now; retry"),
                   {}});
  return false;
}

void Core::Answer(const RequestMeta& meta, AnswerBody body) {
  if (!meta.request_id.empty()) {
    changes_.requests.push_back({meta.request_id, meta.hash, SerialiseAnswer(body), now_.wall});
    remembered_[meta.request_id] = {meta.hash, body};
    remembered_order_.emplace_back(now_.steady + options_.request_memory, meta.request_id);
  }
  Defer(Action(AnswerAction{meta.token, absl::OkStatus(), std::move(body)}));
}

void Core::On(const SubmitEvent& event) {
  if (!Admit(event.meta)) return;
  std::string id = NewId(12);
  while (jobs_.count(id) != 0) id = NewId(12);
  JobEntry& entry = jobs_[id];
  entry.row.set_number(next_number_++);
  *entry.row.mutable_state_since() = ToProto(now_.wall);
  *entry.row.mutable_queued_since() = ToProto(now_.wall);
  v1::Job& job = *entry.row.mutable_job();
  job.set_id(id);
  *job.mutable_spec() = event.spec;
  job.mutable_owner()->set_name(event.meta.principal);
  job.set_state(v1::JOB_STATE_QUEUED);
  job.set_intent(v1::INTENT_RUN);
  job.set_reason("submitted");
  job.set_message("waits for workers");
  if (!event.planned_for.empty()) absl::StrAppend(job.mutable_message(), "; ", event.planned_for);
  job.set_lineage(1);
  *job.mutable_submit_time() = ToProto(now_.wall);
  BeginFrom(entry);
  Enqueue(entry.row);
  MarkDirty(entry);
  AddJobEvent(entry.row, "submitted", event.meta.principal)
      .set_message(absl::StrCat("submitted as '", event.spec.name(), "'",
                                event.planned_for.empty() ? "" : "; ", event.planned_for));
  schedule_dirty_ = true;
  Answer(event.meta, job);
}

void Core::On(const IntentEvent& event) {
  if (!Admit(event.meta)) return;
  const auto it = jobs_.find(event.job_id);
  if (it == jobs_.end()) {
    return Refuse(event.meta.token,
                  absl::NotFoundError(absl::StrCat("no job '", event.job_id, "'")));
  }
  JobEntry& job = it->second;
  const v1::Job& now = job.row.job();
  if (!event.etag.empty() && event.etag != now.etag()) {
    return Refuse(event.meta.token,
                  absl::AbortedError(absl::StrCat("job ", now.id(), " has changed: its etag was '",
                                                  now.etag(), "', wanted '", event.etag, "'")));
  }
  switch (CompareIntent(now.state(), now.intent(), event.intent)) {
    case IntentChange::kRefused:
      return Refuse(event.meta.token, WhyRefused(now, event.intent));
    case IntentChange::kNone:
      break;
    case IntentChange::kChange:
      RaiseIntent(job, event.intent, event.meta.principal,
                  absl::StrCat("user_", IntentName(event.intent)));
  }
  Answer(event.meta, job.row.job());
}

void Core::On(const UpdateWorkerEvent& event) {
  if (!Admit(event.meta)) return;
  WorkerEntry* worker = FindWorker(event.worker_id);
  if (worker == nullptr) {
    return Refuse(event.meta.token,
                  absl::NotFoundError(absl::StrCat("no worker '", event.worker_id, "'")));
  }
  if (event.release && !worker->row.has_quarantined_until()) {
    return Refuse(event.meta.token,
                  absl::FailedPreconditionError(absl::StrCat(
                      "worker '", event.worker_id, "' is ",
                      v1::WorkerState_Name(StateOf(*worker)).substr(13), ", not in quarantine")));
  }
  if (event.release) {
    worker->row.clear_quarantined_until();
    worker->row.set_quarantines(0);
    v1::Event& released = AddEvent("worker_released", event.meta.principal);
    released.set_worker_id(event.worker_id);
    released.set_message("taken out of quarantine");
  }
  if (event.drain.has_value()) SetDraining(*worker, *event.drain, event.meta.principal);
  NoteState(*worker, "operator");
  dirty_workers_.insert(event.worker_id);
  schedule_dirty_ = true;
  Answer(event.meta, Describe(*worker));
}

void Core::On(const PinEvent& event) {
  if (!Admit(event.meta)) return;
  v1::CheckpointInfo info = event.checkpoint;
  info.set_pinned(event.pinned);
  const std::string job_id = info.id().substr(0, info.id().find('/'));
  if (event.pinned) {
    pinned_[job_id].insert(info.id());
  } else {
    pinned_[job_id].erase(info.id());
  }
  changes_.checkpoints.push_back(info);
  if (const auto it = jobs_.find(job_id); it != jobs_.end()) TouchMembers(it->second);
  Answer(event.meta, info);
}

void Core::On(const ListWorkersEvent& event) {
  Defer(Action(AnswerAction{event.token, absl::OkStatus(), Workers()}));
}

void Core::On(const StepsEvent& event) {
  const auto it = jobs_.find(event.job_id);
  if (it == jobs_.end()) return;
  JobRow& row = it->second.row;
  v1::Job& job = *row.mutable_job();
  if (event.newest.has_value()) {
    const v1::StepRecord& newest = *event.newest;
    const bool newer = newest.generation() > job.last_step().generation() ||
                       (newest.generation() == job.last_step().generation() &&
                        newest.step() >= job.last_step().step());
    if (newer) {
      job.set_step(newest.step());
      *job.mutable_last_step() = newest;
    }
  }
  double booked = event.recomputed_seconds + event.checkpoint_seconds + event.input_seconds;
  v1::Goodput& goodput = *job.mutable_goodput();
  goodput.set_recomputed(goodput.recomputed() + event.recomputed_seconds);
  goodput.set_checkpoint_stall(goodput.checkpoint_stall() + event.checkpoint_seconds);
  goodput.set_input_stall(goodput.input_stall() + event.input_seconds);
  for (const v1::EvalRecord& eval : event.evals) {
    goodput.set_evaluation(goodput.evaluation() + eval.seconds());
    booked += eval.seconds();
    auto& list = *job.mutable_last_evals();
    const auto same = std::find_if(list.begin(), list.end(), [&](const v1::EvalRecord& old) {
      return old.name() == eval.name();
    });
    if (same == list.end()) {
      *list.Add() = eval;
    } else if (eval.step() >= same->step()) {
      *same = eval;
    }
  }
  row.set_booked_seconds(row.booked_seconds() + booked);
  if (IsTerminal(job.state())) {
    MarkDirty(it->second);  // the last records arrive after the verdict
  } else if (last_persist_ <= committed_) {
    Defer(Action(PublishAction{row}));
  }
}

}  // namespace vitscale
