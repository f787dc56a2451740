// control.db: jobs, attempts, workers, events, checkpoints, request ids, shares, the term.
//
// One writer thread commits what the core hands over, in order, as many transactions at a time as
// are waiting. The number of an event is assigned in the transaction that carries it. Reads go
// through a connection of their own and see committed rows only. Events are kept up to
// `events_max`; what was compacted is OUT_OF_RANGE for readers.

#ifndef SERVER_STORE_CONTROL_STORE_H_
#define SERVER_STORE_CONTROL_STORE_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/core/events.h"
#include "server/store/sqlite.h"

namespace vitscale {

struct ControlStoreOptions {
  int64_t events_max = 1000000;
  absl::Duration requests_kept = absl::Hours(7 * 24);
  absl::Duration retry_min = absl::Milliseconds(50);
  absl::Duration retry_max = absl::Seconds(5);
  // Tests: called before ("commit") and after ("committed") a commit; an error stands for one of
  // the disk.
  std::function<absl::Status(const char* point)> fault;
};

class ControlStore {
 public:
  // Opens or creates the file and raises the term, durably.
  static absl::StatusOr<std::unique_ptr<ControlStore>> Open(const std::string& path,
                                                            ControlStoreOptions options = {});
  ~ControlStore();

  int64_t term() const { return term_; }
  absl::StatusOr<LoadedState> Load();
  // Spool marks: everything of an incarnation up to the number is committed.
  absl::StatusOr<std::map<std::string, int64_t>> LoadMarks();

  // What was committed, with event numbers.
  struct Committed {
    uint64_t id = 0;
    Changes changes;
    absl::Duration took;  // of the whole batch
  };
  struct Callbacks {
    std::function<void(Committed)> committed;
    std::function<void(bool writable)> writable;  // on change only
  };
  // Both are called by the writer thread, in order.
  void Start(Callbacks callbacks);
  void Commit(PersistAction persist);  // never waits
  // Commits what is waiting if the disk lets it, then ends the thread.
  void Stop();

  // ---- reads; any thread ------------------------------------------------------
  // Events after `after`, of one job or (empty) of all. OUT_OF_RANGE if some of them are compacted.
  absl::StatusOr<std::vector<v1::Event>> Events(int64_t after, const std::string& job_id,
                                                int limit);
  absl::StatusOr<int64_t> LastEvent();
  absl::StatusOr<std::vector<v1::CheckpointInfo>> Checkpoints(
      const std::string& job_id);                                        // newest first
  absl::StatusOr<v1::CheckpointInfo> Checkpoint(const std::string& id);  // NOT_FOUND
  absl::StatusOr<std::optional<RequestRow>> FindRequest(const std::string& id);
  absl::StatusOr<std::vector<std::string>> AttemptWorkers(const std::string& job_id,
                                                          int64_t attempt);

 private:
  explicit ControlStore(ControlStoreOptions options) : options_(std::move(options)) {}
  absl::Status RaiseTerm();
  absl::Status Prune();
  void Loop();
  void CommitBatch(std::vector<PersistAction> batch);
  absl::Status TryCommit(std::vector<PersistAction>& batch, int64_t batch_number);
  absl::Status Write(Changes& changes, int64_t* sequence);
  bool WasCommitted(int64_t batch_number);

  const ControlStoreOptions options_;
  std::unique_ptr<Database> writer_;
  int64_t term_ = 0;
  int64_t batch_number_ = 0;
  int64_t last_event_ = 0;
  Callbacks callbacks_;

  std::mutex read_mutex_;
  std::unique_ptr<Database> reader_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<PersistAction> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace vitscale

#endif  // SERVER_STORE_CONTROL_STORE_H_
