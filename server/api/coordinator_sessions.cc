// Sessions of agents: reports go to the core, records to the step store, and what is durable is
// acknowledged.

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/api/coordinator.h"
#include "server/core/convert.h"

namespace vitscale {
namespace {

constexpr size_t kAttemptsCached = 10000;

}  // namespace

absl::StatusOr<SessionId> Coordinator::OpenSession(const std::string& credential,
                                                   std::shared_ptr<AgentStream> stream) {
  SessionId id;
  std::pair<std::string, std::string> worker;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = credentials_.find(credential);
    if (credential.empty() || it == credentials_.end()) {
      return absl::UnauthenticatedError("the credential is not known: register first");
    }
    worker = it->second;
    id = next_session_++;
  }
  Post([this, id, worker, stream = std::move(stream)] {
    AgentSession& session = sessions_[id];
    session.stream = stream;
    session.worker_id = worker.first;
    session.incarnation = worker.second;
    Handle(SessionOpenedEvent{id, worker.first, worker.second});
  });
  return id;
}

void Coordinator::CloseSession(SessionId session) {
  Post([this, session] {
    const auto it = sessions_.find(session);
    if (it == sessions_.end()) return;
    const std::string worker_id = it->second.worker_id;
    sessions_.erase(it);
    Handle(SessionClosedEvent{session, worker_id});
  });
}

void Coordinator::Receive(SessionId session, v1::AgentMessage message, std::function<void()> next) {
  auto shared = std::make_shared<v1::AgentMessage>(std::move(message));
  Post([this, session, shared, next = std::move(next)] { ReceiveOnLoop(session, *shared, next); });
}

void Coordinator::ReceiveOnLoop(SessionId id, const v1::AgentMessage& message,
                                std::function<void()> next) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  const std::string worker_id = it->second.worker_id;
  const bool waits = message.records_size() > 0 && TakeRecords(id, it->second, message, next);
  if (message.has_observed()) {
    Handle(
        ReportEvent{id, worker_id, message.term(), message.message_number(), message.observed()});
  }
  if (!waits) next();
}

// True if the next message has to wait because too much is on its way to the disk.
bool Coordinator::TakeRecords(SessionId id, AgentSession& session, const v1::AgentMessage& message,
                              const std::function<void()>& next) {
  std::vector<v1::SpooledRecord> records;
  RecordsEvent control;
  control.worker_id = session.worker_id;
  std::map<std::string, int64_t> marks;
  int64_t highest = 0;
  for (v1::SpooledRecord record : message.records()) {
    highest = std::max(highest, record.number());
    if (record.incarnation().empty()) record.set_incarnation(session.incarnation);
    if (!Owns(session.worker_id, record)) continue;
    if ((record.has_checkpoint() || record.has_event()) &&
        record.number() > marks_[record.incarnation()]) {
      marks[record.incarnation()] = record.number();
      control.records.push_back(record);
    }
    records.push_back(std::move(record));
  }
  const bool waits = steps_->Full();
  session.pending.push_back({highest, control.records.empty() ? 1 : 2});
  if (!control.records.empty()) {
    for (const auto& [incarnation, number] : marks) {
      marks_[incarnation] = number;
      control.marks.push_back({incarnation, number});
    }
    control.token = next_token_++;
    answerers_[control.token] = [this, id, highest](AnswerAction) { RecordsDone(id, highest); };
    Handle(control);
  }
  steps_->Add(session.worker_id, std::move(records), [this, id, highest, waits, next] {
    Post([this, id, highest, waits, next] {
      RecordsDone(id, highest);
      if (waits) next();
    });
  });
  return waits;
}

// Records about an attempt are taken only from a worker that was placed in it.
bool Coordinator::Owns(const std::string& worker_id, const v1::SpooledRecord& record) {
  if (record.job_id().empty()) return record.has_event();
  const auto key = std::make_pair(record.job_id(), record.attempt());
  auto it = attempt_workers_.find(key);
  if (it == attempt_workers_.end()) {
    auto workers = control_->AttemptWorkers(record.job_id(), record.attempt());
    if (!workers.ok() || workers->empty()) return false;
    if (attempt_workers_.size() >= kAttemptsCached) attempt_workers_.clear();
    it = attempt_workers_.emplace(key, *std::move(workers)).first;
  }
  return std::find(it->second.begin(), it->second.end(), worker_id) != it->second.end();
}

void Coordinator::RecordsDone(SessionId id, int64_t number) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  AgentSession& session = it->second;
  for (PendingRecords& pending : session.pending) {
    if (pending.number != number || pending.missing == 0) continue;
    --pending.missing;
    break;
  }
  const int64_t before = session.acknowledged_record;
  while (!session.pending.empty() && session.pending.front().missing == 0) {
    session.acknowledged_record =
        std::max(session.acknowledged_record, session.pending.front().number);
    session.pending.pop_front();
  }
  if (session.acknowledged_record != before) SendTo(session);
}

}  // namespace vitscale
