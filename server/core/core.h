// The coordinator's mind: scheduler, job machine, membership, generations. Single-threaded and
// deterministic: no I/O, no clock, no random device of its own; the same events at the same moments
// give the same actions.
//
//   for (Action& action : core.Handle(event, now)) shell.Do(action);
//   … sleep until core.NextDeadline(), then Handle(TickEvent{}, now).
//
// Persist, then send: a Handle that changes durable rows returns one PersistAction; everything that
// depends on it (answers, desired states) is returned by the Handle of its CommittedEvent.
// Heartbeats are acknowledged at once, with the newest committed desired state.
//
// Level-triggered: reports are whole, so each evaluation looks at what is, not at what happened;
// lost, repeated and reordered messages are harmless. The only edges are deaths of trainers,
// recognised by process id.

#ifndef SERVER_CORE_CORE_H_
#define SERVER_CORE_CORE_H_

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/base/random.h"
#include "server/core/events.h"
#include "server/core/generation.h"
#include "server/core/job_table.h"
#include "server/core/options.h"
#include "server/core/scheduler.h"

namespace vitscale {

class Core {
 public:
  // `random` gives ids, secrets and credentials; it must outlive the core.
  Core(CoreOptions options, Random& random, LoadedState state, Moment now);

  std::vector<Action> Handle(const Event& event, Moment now);
  // Steady time of the next TickEvent; infinite future if none is needed.
  absl::Time NextDeadline() const;

  int64_t term() const { return term_; }

  // For tests and metrics; as of now, committed or not.
  const JobRow* FindJob(const std::string& job_id) const;
  std::vector<v1::Worker> Workers() const;
  // Queued jobs, and the job and workers of the reservation.
  const SchedulerOutput& last_schedule() const { return last_schedule_; }
  int64_t schedule_rounds() const { return schedule_rounds_; }

 private:
  // A trainer that died, until the evaluation has drawn its conclusion.
  struct Loss {
    int rank = 0;
    std::string worker_id;
    int exit_code = 0;
    std::string error;
  };
  // What of a job need not survive the coordinator.
  struct JobEntry {
    JobRow row;
    bool dirty = false;
    absl::Time stage_deadline = absl::InfiniteFuture();
    absl::Time stop_deadline = absl::InfiniteFuture();
    absl::Time kill_at = absl::InfiniteFuture();  // when the kill was first wanted
    absl::Time formed_at = absl::InfinitePast();  // when members were last asked to form
    absl::Time broken_at = absl::InfiniteFuture();
    std::string broken_code;
    std::string broken_text;
    bool broken_counts = true;  // a trainer's fault rather than a lost host
    std::string suspect;        // worker
    std::vector<Loss> losses;
    absl::Time last_advance = absl::InfinitePast();
    int64_t advanced_step = 0;
    int64_t committed_step = 0;  // of this generation
    absl::Duration slowest_step;
    int64_t seen_generation = 0;  // greatest that anybody reported
    absl::Time wake = absl::InfiniteFuture();
  };
  // What a worker's device is used for.
  struct Holding {
    std::string job_id;
    int64_t attempt = 0;
    int64_t generation = 0;
    int rank = -1;
    bool releasing = false;  // the job has left; the device is not free yet
    bool kill = false;
    absl::Time kill_at = absl::InfiniteFuture();
  };
  struct WorkerEntry {
    WorkerRow row;
    SessionId session = 0;  // 0: none
    absl::Time session_closed = absl::InfinitePast();
    absl::Time last_heartbeat = absl::InfinitePast();
    absl::Time owned_since = absl::InfinitePast();  // from when the ownership clock counts
    bool reachable = false;
    bool lost = false;
    bool reported = false;  // in this session
    bool heard = false;     // `observed` is of this incarnation and of this life of the coordinator
    v1::ObservedState observed;
    std::string numeric_class;  // see NumericClassOf
    int64_t last_pid = 0;       // newest trainer seen
    int64_t counted_pid = -1;   // trainer whose death was counted
    std::optional<Holding> holding;
    std::shared_ptr<const v1::DesiredState> wanted;    // as of the last evaluation
    std::shared_ptr<const v1::DesiredState> released;  // committed
    bool dirty = false;
    bool touched = false;
    absl::Time wake = absl::InfiniteFuture();
    absl::Time state_since;  // wall
    v1::WorkerState last_state = v1::WORKER_STATE_UNSPECIFIED;
    // When it was last told that its card is dirty, and that it is clean.
    absl::Time told_dirty = absl::InfinitePast(), told_clean = absl::InfinitePast();
  };
  // A mutation whose answer is remembered.
  struct Remembered {
    uint64_t hash = 0;
    AnswerBody body;
  };
  // What the scheduler asks of a queued job, at hand: with thousands of them a walk over their rows
  // would cost more than the decision. The views of `job` point into this item and its key.
  struct QueueItem {
    QueuedJob job;
    std::string owner;
    std::string avoid_worker;
    std::string reason;
    absl::Time since;                              // wall
    absl::Time not_before = absl::InfinitePast();  // wall
    absl::Time ready_at = absl::InfinitePast();    // steady: the same
  };
  struct ReleaseDesired {
    std::string worker_id;
    std::shared_ptr<const v1::DesiredState> desired;
  };
  using DeferredAction = std::variant<Action, ReleaseDesired>;

  // core.cc: dispatch, transactions, wakes.
  void On(const TickEvent& event);
  void On(const CommittedEvent& event);
  void On(const StoreStateEvent& event);
  void RunWakes();
  void Finish();
  void Flush();
  void ReleaseUpTo(uint64_t id);
  void Emit(DeferredAction action);
  void Defer(DeferredAction action) { deferred_.push_back(std::move(action)); }
  void SetWake(JobEntry& job, absl::Time time);
  void SetWake(WorkerEntry& worker, absl::Time time);
  v1::Event& AddEvent(const std::string& kind, const std::string& actor);
  v1::Event& AddJobEvent(const JobRow& row, const std::string& kind, const std::string& actor);
  std::string NewId(int characters) { return RandomId(random_, characters); }

  // core_requests.cc: what users ask.
  void On(const SubmitEvent& event);
  void On(const IntentEvent& event);
  void On(const UpdateWorkerEvent& event);
  void On(const PinEvent& event);
  void On(const ListWorkersEvent& event);
  void On(const StepsEvent& event);
  bool Repeated(const RequestMeta& meta);
  bool Admit(const RequestMeta& meta);
  void Answer(const RequestMeta& meta, AnswerBody body);
  void Refuse(Token token, absl::Status status);

  // core_branches.cc: starting from another job's checkpoint.
  void BeginFrom(JobEntry& job);
  void Hold(const std::string& checkpoint);
  void LetGo(JobEntry& job);
  void TouchParent(const std::string& checkpoint);
  std::vector<std::string> KeptCheckpoints(const std::string& job_id) const;

  // core_jobs.cc: the job machine.
  bool Apply(JobEntry& job, JobEvent event, const std::string& reason, const std::string& message);
  void SettleGoodput(JobEntry& job);
  void RaiseIntent(JobEntry& job, v1::Intent intent, const std::string& actor,
                   const std::string& reason);
  void BeginStop(JobEntry& job);
  void EndAttempt(JobEntry& job, bool kill);
  void GiveUp(JobEntry& job, const std::string& code, const std::string& message, bool counts);
  void FailJob(JobEntry& job, const std::string& code, const std::string& message);
  void Place(const PlacementDecision& placement);
  void MarkDirty(JobEntry& job);
  void TouchMembers(const JobEntry& job);
  void Account(const JobEntry& job);

  // core_generations.cc: the stage ladder.
  void Evaluate(JobEntry& job);
  bool CheckFinished(JobEntry& job);
  bool CheckUserErrors(JobEntry& job);
  bool AnotherMayHaveFolder(const JobEntry& job) const;
  void EvaluatePrepare(JobEntry& job);
  void EvaluateForm(JobEntry& job);
  void EvaluateGo(JobEntry& job);
  void EvaluateExit(JobEntry& job);
  bool CheckForming(JobEntry& job);
  bool CheckAbsent(JobEntry& job);
  void Go(JobEntry& job, v1::Source source);
  void NoticeBreak(JobEntry& job);
  void MarkBroken(JobEntry& job, const std::string& code, const std::string& text, bool counts,
                  absl::Time act_at);
  void ActOnBreak(JobEntry& job);
  void NewGeneration(JobEntry& job);
  void CheckStopDeadlines(JobEntry& job);
  void ExitAll(JobEntry& job, bool kill);
  const v1::ObservedState* ObservedOf(const JobEntry& job, const v1::Member& member) const;
  bool MemberLeft(const JobEntry& job, const v1::Member& member) const;
  bool OwnershipExpired(const WorkerEntry* worker) const;
  MemberView ViewOf(const v1::Member& member) const;
  std::optional<absl::Time> FenceWait(const JobEntry& job) const;

  // core_workers.cc: membership.
  void On(const RegisterEvent& event);
  void On(const SessionOpenedEvent& event);
  void On(const SessionClosedEvent& event);
  void On(const ReportEvent& event);
  void On(const RecordsEvent& event);
  absl::Status CheckRegistration(const v1::RegisterRequest& request) const;
  void AdoptIncarnation(WorkerEntry& worker, const v1::RegisterRequest& request);
  void NoteTrainer(WorkerEntry& worker, const v1::ObservedState& before);
  void NoteDeviceUse(WorkerEntry& worker, const v1::ObservedState& before);
  void NoteProgress(WorkerEntry& worker);
  void NoteHolding(WorkerEntry& worker);
  void LateVerdict(JobEntry& job, const v1::ObservedState& observed);
  void CheckRelease(WorkerEntry& worker);
  void CheckLease(WorkerEntry& worker);
  void Quarantine(WorkerEntry& worker, const std::string& reason);
  bool LeftInOrder(const WorkerEntry& worker) const;
  void SayLeft(WorkerEntry& worker);
  void Forget(WorkerEntry& worker);
  void SetDraining(WorkerEntry& worker, bool draining, const std::string& actor);
  void RecordCheckpoint(const v1::CheckpointInfo& info, const v1::SpooledRecord& record);
  std::shared_ptr<const v1::DesiredState> ComputeDesired(const WorkerEntry& worker) const;
  v1::WorkerState StateOf(const WorkerEntry& worker) const;
  v1::Worker Describe(const WorkerEntry& worker) const;
  void NoteState(WorkerEntry& worker, const std::string& reason);
  bool Quarantined(const WorkerEntry& worker) const;
  bool Dirty(const WorkerEntry& worker) const;
  bool Usable(const WorkerEntry& worker) const;
  WorkerEntry* FindWorker(const std::string& worker_id);
  const WorkerEntry* FindWorker(const std::string& worker_id) const;
  void Touch(WorkerEntry& worker);

  // core_schedule.cc.
  void Enqueue(const JobRow& row);
  void RunScheduler();
  SchedulerInput BuildSchedulerInput() const;
  double ShareOf(const std::string& owner) const;
  void ResolveNumerics(JobEntry& job);

  const CoreOptions options_;
  Random& random_;
  const int64_t term_;
  Moment now_;
  absl::Time restart_grace_;  // until then nobody is declared dead
  int64_t next_number_ = 1;
  bool writable_ = true;

  std::map<std::string, JobEntry> jobs_;
  std::map<std::string, QueueItem> queued_;
  std::set<std::string> active_;
  std::map<std::string, WorkerEntry> workers_;
  std::map<std::string, OwnerRow> owners_;
  std::map<std::string, std::set<std::string>> pinned_;  // by job
  // By job, then checkpoint: how many other jobs would begin with it.
  std::map<std::string, std::map<std::string, int>> held_;
  std::map<std::string, Remembered> remembered_;
  std::deque<std::pair<absl::Time, std::string>> remembered_order_;

  std::set<std::pair<absl::Time, std::string>> job_wakes_;
  std::set<std::pair<absl::Time, std::string>> worker_wakes_;
  std::set<std::string> dirty_jobs_;
  std::set<std::string> dirty_workers_;
  std::set<std::string> touched_workers_;
  bool schedule_dirty_ = true;
  absl::Time schedule_wake_ = absl::InfiniteFuture();
  absl::Time next_schedule_ = absl::InfinitePast();
  SchedulerOutput last_schedule_;
  int64_t schedule_rounds_ = 0;

  Changes changes_;
  uint64_t last_persist_ = 0;
  uint64_t committed_ = 0;
  std::vector<DeferredAction> deferred_;
  std::deque<std::pair<uint64_t, std::vector<DeferredAction>>> waiting_;
  std::vector<Action> out_;
};

}  // namespace vitscale

#endif  // SERVER_CORE_CORE_H_
