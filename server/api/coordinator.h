// The shell around the core: one thread that owns it, the stores, and what readers see.
//
// Mutations and reports become events of the core, in the order of arrival; its actions are carried
// out here: transactions go to the store's writer, whose commits come back as events; answers and
// desired states leave only then. Reads never touch the core's thread (but for the list of
// workers).
//
// Knows nothing of gRPC: server/api/*_rpc.cc calls it, and so do tests and the benchmark.

#ifndef SERVER_API_COORDINATOR_H_
#define SERVER_API_COORDINATOR_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/base/clock.h"
#include "kernels/base/random.h"
#include "server/api/job_directory.h"
#include "server/api/watch_hub.h"
#include "server/core/core.h"
#include "server/metrics/coordinator_metrics.h"
#include "server/store/control_store.h"
#include "server/store/step_store.h"
#include "vitscale/v1/control_service.pb.h"
#include "vitscale/v1/worker_service.pb.h"

namespace vitscale {

// The coordinator's end of one agent's stream. Thread-safe.
class AgentStream {
 public:
  virtual ~AgentStream() = default;
  virtual void Send(v1::CoordinatorMessage message) = 0;  // replaces one that has not left yet
  virtual void Close(const absl::Status& why) = 0;
};

// From whom a request is, and how a repetition is recognised.
struct Caller {
  std::string principal;
  std::string request_id;
  uint64_t request_hash = 0;
};

class Coordinator {
 public:
  struct Options {
    CoreOptions core;
    std::string join_secret;  // empty: none is asked for
  };
  template <typename T>
  using Reply = std::function<void(absl::StatusOr<T>)>;

  Coordinator(Options options, std::unique_ptr<ControlStore> control,
              std::unique_ptr<StepStore> steps, Random& random, Clock& clock);
  ~Coordinator();

  // Loads what the stores hold and begins.
  absl::Status Start();
  // From `grace` on every request that is not answered yet, and every new one, is answered
  // UNAVAILABLE: a server can only end when all its calls have, and a disk that takes nothing must
  // not keep it.
  void RefuseAfter(absl::Duration grace);
  void Stop();

  // ---- mutations; `reply` runs on the core's thread, after the commit -----------
  // The spec may come from anywhere: it is validated, made canonical and given its micro-batch
  // here. Job.message says for which workers that was chosen.
  void Submit(const Caller& caller, const v1::JobSpec& spec, bool validate_only,
              Reply<v1::Job> reply);
  void SetIntent(const Caller& caller, const v1::SetIntentRequest& request, Reply<v1::Job> reply);
  void UpdateWorker(const Caller& caller, const v1::UpdateWorkerRequest& request,
                    Reply<v1::Worker> reply);
  void PinCheckpoint(const Caller& caller, const v1::PinCheckpointRequest& request,
                     Reply<v1::CheckpointInfo> reply);
  void ListWorkers(Reply<std::vector<v1::Worker>> reply);

  // ---- agents -------------------------------------------------------------------
  void Register(const v1::RegisterRequest& request, Reply<v1::RegisterResponse> reply);
  // UNAUTHENTICATED for a credential that no life of a worker has now.
  absl::StatusOr<SessionId> OpenSession(const std::string& credential,
                                        std::shared_ptr<AgentStream> stream);
  // `next` is called when the following message may be read.
  void Receive(SessionId session, v1::AgentMessage message, std::function<void()> next);
  void CloseSession(SessionId session);

  // ---- reads --------------------------------------------------------------------
  absl::StatusOr<v1::Job> GetJob(const std::string& id_or_name) const;
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request) const;
  v1::ServerInfo Info() const;
  ControlStore& control() { return *control_; }
  StepStore& steps() { return *steps_; }
  const JobDirectory& directory() const { return directory_; }
  WatchHub& hub() { return hub_; }
  CoordinatorMetrics& metrics() { return *metrics_; }
  Clock& clock() const { return clock_; }
  void SetMetricsAddress(std::string address);
  // As of about a second ago, but whoever has been told that it is registered is among them; for
  // the planner, /metrics and service discovery.
  std::vector<v1::Worker> WorkersSnapshot() const;
  const CoreOptions& core_options() const { return options_.core; }
  int64_t term() const { return control_->term(); }

 private:
  // Records of one message, acknowledged when both stores have them.
  struct PendingRecords {
    int64_t number = 0;
    int missing = 0;
  };
  struct AgentSession {
    std::shared_ptr<AgentStream> stream;
    std::string worker_id;
    std::string incarnation;
    int64_t acknowledged_message = 0;
    int64_t acknowledged_record = 0;
    bool refused = false;
    std::shared_ptr<const v1::DesiredState> desired;
    std::deque<PendingRecords> pending;  // in order
  };
  using Answerer = std::function<void(AnswerAction)>;
  struct Admitted {
    v1::JobSpec spec;         // canonical, with its micro-batch
    std::string planned_for;  // see FixedSpec
  };

  // Any thread.
  void Post(std::function<void()> task);
  absl::StatusOr<Admitted> Admit(const v1::JobSpec& spec) const;
  // True if the store knows the request: it has been answered.
  template <typename T>
  bool AnsweredBefore(const Caller& caller, const Reply<T>& reply);
  template <typename T>
  Token Expect(Reply<T> reply);

  // The core's thread.
  void Loop();
  void Handle(const Event& event);
  void Do(Action action);
  void OnCommitted(ControlStore::Committed committed);
  void ReceiveOnLoop(SessionId id, const v1::AgentMessage& message, std::function<void()> next);
  bool TakeRecords(SessionId id, AgentSession& session, const v1::AgentMessage& message,
                   const std::function<void()>& next);
  bool Owns(const std::string& worker_id, const v1::SpooledRecord& record);
  void RecordsDone(SessionId id, int64_t number);
  void SendTo(AgentSession& session);
  void SnapshotWorkers();
  void RefuseOutstanding();
  RequestMeta MetaOf(const Caller& caller, Token token) const;
  Moment Now() const { return {clock_.Monotonic(), clock_.Now()}; }

  const Options options_;
  const std::unique_ptr<ControlStore> control_;
  const std::unique_ptr<StepStore> steps_;
  Random& random_;
  Clock& clock_;
  const absl::Time start_time_;
  std::unique_ptr<CoordinatorMetrics> metrics_;
  JobDirectory directory_;
  WatchHub hub_;

  // Of the core's thread.
  std::unique_ptr<Core> core_;
  Token next_token_ = 1;
  std::map<Token, Answerer> answerers_;
  std::map<SessionId, AgentSession> sessions_;
  std::map<std::string, int64_t> marks_;  // of control.db, submitted
  std::map<std::pair<std::string, int64_t>, std::vector<std::string>> attempt_workers_;
  absl::Time next_snapshot_ = absl::InfinitePast();

  mutable absl::Mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time refuse_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool writable_ ABSL_GUARDED_BY(mutex_) = true;
  std::string metrics_address_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Worker> workers_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, std::pair<std::string, std::string>> credentials_
      ABSL_GUARDED_BY(mutex_);  // credential -> worker, incarnation
  SessionId next_session_ ABSL_GUARDED_BY(mutex_) = 1;
  std::thread thread_;
};

}  // namespace vitscale

#endif  // SERVER_API_COORDINATOR_H_
