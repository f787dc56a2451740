// What goes into the core and what comes out. Plain values: no callbacks, no descriptors, no
// clocks.

#ifndef SERVER_CORE_EVENTS_H_
#define SERVER_CORE_EVENTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/core/rows.pb.h"
#include "vitscale/v1/job.pb.h"
#include "vitscale/v1/worker_service.pb.h"

namespace vitscale {

using server::AttemptFailure;
using server::AttemptRow;
using server::Fence;
using server::Gang;
using server::JobRow;
using server::OwnerRow;
using server::WorkerRow;

// Both clocks at one moment: `steady` for deadlines (arbitrary epoch), `wall` for what people read.
struct Moment {
  absl::Time steady;
  absl::Time wall;
};

// Names a caller that waits for an AnswerAction.
using Token = uint64_t;
// Names one stream of one agent.
using SessionId = uint64_t;

// ---- events ------------------------------------------------------------------

// NextDeadline() has passed.
struct TickEvent {};

// What every mutation of a user carries.
struct RequestMeta {
  Token token = 0;
  std::string request_id;  // empty: not idempotent
  uint64_t hash = 0;       // of method and request without its request_id
  std::string principal;
};
struct SubmitEvent {
  RequestMeta meta;
  v1::JobSpec spec;         // canonical
  std::string planned_for;  // for what its micro-batch was chosen, for people
};
struct IntentEvent {
  RequestMeta meta;
  std::string job_id;
  v1::Intent intent = v1::INTENT_UNSPECIFIED;
  std::string etag;
};
struct UpdateWorkerEvent {
  RequestMeta meta;
  std::string worker_id;
  bool release = false;
  std::optional<bool> drain;
};
struct PinEvent {
  RequestMeta meta;
  v1::CheckpointInfo checkpoint;  // as the store has it
  bool pinned = false;
};
struct ListWorkersEvent {
  Token token = 0;
};

// The join secret has been checked and removed.
struct RegisterEvent {
  Token token = 0;
  v1::RegisterRequest request;
};
struct SessionOpenedEvent {
  SessionId session = 0;
  std::string worker_id;
  std::string incarnation;
};
struct SessionClosedEvent {
  SessionId session = 0;
  std::string worker_id;
};
struct ReportEvent {
  SessionId session = 0;
  std::string worker_id;
  int64_t term = 0;
  int64_t message_number = 0;
  v1::ObservedState observed;
};
// Checkpoints and lifecycle events of a worker's spool, in order. `mark` goes into the same
// transaction.
struct SpoolMark {
  std::string incarnation;
  int64_t number = 0;  // everything up to it is in this transaction or before
};
struct RecordsEvent {
  std::string worker_id;
  std::vector<v1::SpooledRecord> records;
  std::vector<SpoolMark> marks;
  Token token = 0;  // answered when committed
};
// Step and evaluation records of a job are durable.
struct StepsEvent {
  std::string job_id;
  std::optional<v1::StepRecord> newest;
  std::vector<v1::EvalRecord> evals;
  double recomputed_seconds = 0;
  double checkpoint_seconds = 0;
  double input_seconds = 0;
};
// The transaction of PersistAction `id`, and with it all before, is durable.
struct CommittedEvent {
  uint64_t id = 0;
};
// The store cannot commit (false) or can again (true). Persists that were handed over stay in its
// queue.
struct StoreStateEvent {
  bool writable = true;
};

using Event = std::variant<TickEvent, SubmitEvent, IntentEvent, UpdateWorkerEvent, PinEvent,
                           ListWorkersEvent, RegisterEvent, SessionOpenedEvent, SessionClosedEvent,
                           ReportEvent, RecordsEvent, StepsEvent, CommittedEvent, StoreStateEvent>;

// ---- actions -----------------------------------------------------------------

// An answered request, kept with its answer so that a repetition gets the same.
struct RequestRow {
  std::string id;
  uint64_t hash = 0;
  std::string answer;  // serialised Job, Worker or CheckpointInfo
  absl::Time time;     // wall
};

// One transaction.
struct Changes {
  std::vector<JobRow> jobs;
  std::vector<WorkerRow> workers;
  std::vector<std::string> removed_workers;
  std::vector<v1::Event> events;  // the store assigns `sequence`
  std::vector<v1::CheckpointInfo> checkpoints;
  std::vector<RequestRow> requests;
  std::vector<OwnerRow> owners;
  std::vector<AttemptRow> attempts;
  std::vector<SpoolMark> marks;

  bool empty() const {
    return jobs.empty() && workers.empty() && removed_workers.empty() && events.empty() &&
           checkpoints.empty() && requests.empty() && owners.empty() && attempts.empty() &&
           marks.empty();
  }
};

// Hand the transaction to the store; CommittedEvent follows. Ids rise by 1.
struct PersistAction {
  uint64_t id = 0;
  Changes changes;
};

struct Registered {
  std::string credential;
};
using AnswerBody = std::variant<std::monostate, v1::Job, v1::Worker, v1::CheckpointInfo,
                                std::vector<v1::Worker>, Registered>;
struct AnswerAction {
  Token token = 0;
  absl::Status status;
  AnswerBody body;
};
// Send to an agent; a later one replaces one that has not left yet.
struct SendAction {
  SessionId session = 0;
  int64_t acknowledged_message = 0;
  bool refused = false;
  std::shared_ptr<const v1::DesiredState> desired;
};
struct CloseSessionAction {
  SessionId session = 0;
  absl::Status why;
};
// Live values of a job (step, goodput) changed without a transition.
struct PublishAction {
  JobRow row;
};

using Action =
    std::variant<PersistAction, AnswerAction, SendAction, CloseSessionAction, PublishAction>;

// ---- at start ----------------------------------------------------------------

// What the store holds; `term` is this life's, already durable.
struct LoadedState {
  int64_t term = 1;
  int64_t last_job_number = 0;
  std::vector<JobRow> jobs;
  std::vector<WorkerRow> workers;
  std::vector<OwnerRow> owners;
  std::vector<v1::CheckpointInfo> pinned;
};

}  // namespace vitscale

#endif  // SERVER_CORE_EVENTS_H_
