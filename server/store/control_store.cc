#include "server/store/control_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr int kSchemaVersion = 1;
constexpr char kSchema[] = R"sql(
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES('term', 0), ('batch', 0), ('compacted', 0);
CREATE TABLE jobs(id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, row BLOB NOT NULL);
CREATE TABLE workers(id TEXT PRIMARY KEY, row BLOB NOT NULL);
CREATE TABLE events(sequence INTEGER PRIMARY KEY, job TEXT NOT NULL, record BLOB NOT NULL);
CREATE INDEX events_of_job ON events(job, sequence);
CREATE TABLE checkpoints(id TEXT PRIMARY KEY, job TEXT NOT NULL, lineage INTEGER NOT NULL, step INTEGER NOT NULL,
  attempt INTEGER NOT NULL, generation INTEGER NOT NULL, pinned INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX checkpoints_of_job ON checkpoints(job, lineage, step, attempt, generation);
CREATE TABLE requests(id TEXT PRIMARY KEY, hash INTEGER NOT NULL, answer BLOB NOT NULL, time INTEGER NOT NULL);
CREATE INDEX requests_by_time ON requests(time);
CREATE TABLE owners(name TEXT PRIMARY KEY, row BLOB NOT NULL);
CREATE TABLE attempts(job TEXT NOT NULL, attempt INTEGER NOT NULL, row BLOB NOT NULL, PRIMARY KEY(job, attempt));
CREATE TABLE spools(incarnation TEXT PRIMARY KEY, number INTEGER NOT NULL);
)sql";

absl::StatusOr<int64_t> ReadInt(Database& database, const std::string& sql) {
  Query query = database.Prepare(sql);
  const int64_t value = query.Next() ? query.Int(0) : 0;
  VITSCALE_RETURN_IF_ERROR(query.status());
  return value;
}

template <typename Row>
absl::Status ReadRows(Database& database, const std::string& sql, std::vector<Row>* rows) {
  Query query = database.Prepare(sql);
  while (query.Next()) {
    const absl::string_view blob = query.Blob(0);
    if (!rows->emplace_back().ParseFromArray(blob.data(), static_cast<int>(blob.size()))) {
      return absl::DataLossError(
          absl::StrCat("'", database.path(), "': ", sql, ": a row cannot be read"));
    }
  }
  return query.status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlStore>> ControlStore::Open(const std::string& path,
                                                                 ControlStoreOptions options) {
  std::unique_ptr<ControlStore> store(new ControlStore(std::move(options)));
  VITSCALE_ASSIGN_OR_RETURN(store->writer_, Database::Open(path, Database::Mode::kReadWrite));
  VITSCALE_RETURN_IF_ERROR(OpenSchema(*store->writer_, kSchemaVersion, kSchema));
  VITSCALE_RETURN_IF_ERROR(store->RaiseTerm());
  VITSCALE_RETURN_IF_ERROR(store->Prune());
  VITSCALE_ASSIGN_OR_RETURN(store->reader_, Database::Open(path, Database::Mode::kReadOnly));
  return store;
}

ControlStore::~ControlStore() { Stop(); }

absl::Status ControlStore::RaiseTerm() {
  VITSCALE_RETURN_IF_ERROR(
      writer_->Execute("UPDATE meta SET value = value + 1 WHERE key = 'term'"));
  VITSCALE_ASSIGN_OR_RETURN(term_, ReadInt(*writer_, "SELECT value FROM meta WHERE key = 'term'"));
  VITSCALE_ASSIGN_OR_RETURN(batch_number_,
                            ReadInt(*writer_, "SELECT value FROM meta WHERE key = 'batch'"));
  VITSCALE_ASSIGN_OR_RETURN(last_event_, ReadInt(*writer_, "SELECT max(sequence) FROM events"));
  VITSCALE_ASSIGN_OR_RETURN(const int64_t compacted,
                            ReadInt(*writer_, "SELECT value FROM meta WHERE key = 'compacted'"));
  last_event_ = std::max(last_event_, compacted);
  return absl::OkStatus();
}

// Old request ids and events. Runs at start and now and then by the writer.
absl::Status ControlStore::Prune() {
  VITSCALE_RETURN_IF_ERROR(writer_->Prepare("DELETE FROM requests WHERE time < ?")
                               .Bind(absl::ToUnixSeconds(absl::Now() - options_.requests_kept))
                               .Run());
  const int64_t compacted = last_event_ - options_.events_max;
  if (compacted <= 0) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(writer_->Execute("BEGIN IMMEDIATE"));
  absl::Status status =
      writer_->Prepare("DELETE FROM events WHERE sequence <= ?").Bind(compacted).Run();
  status.Update(writer_->Prepare("UPDATE meta SET value = max(value, ?) WHERE key = 'compacted'")
                    .Bind(compacted)
                    .Run());
  status.Update(writer_->Execute(status.ok() ? "COMMIT" : "ROLLBACK"));
  return status;
}

absl::StatusOr<LoadedState> ControlStore::Load() {
  LoadedState state;
  state.term = term_;
  VITSCALE_RETURN_IF_ERROR(ReadRows(*writer_, "SELECT row FROM jobs ORDER BY number", &state.jobs));
  VITSCALE_RETURN_IF_ERROR(ReadRows(*writer_, "SELECT row FROM workers", &state.workers));
  VITSCALE_RETURN_IF_ERROR(ReadRows(*writer_, "SELECT row FROM owners", &state.owners));
  VITSCALE_RETURN_IF_ERROR(
      ReadRows(*writer_, "SELECT record FROM checkpoints WHERE pinned = 1", &state.pinned));
  VITSCALE_ASSIGN_OR_RETURN(state.last_job_number,
                            ReadInt(*writer_, "SELECT max(number) FROM jobs"));
  return state;
}

absl::StatusOr<std::map<std::string, int64_t>> ControlStore::LoadMarks() {
  std::map<std::string, int64_t> marks;
  Query query = writer_->Prepare("SELECT incarnation, number FROM spools");
  while (query.Next()) marks[query.Text(0)] = query.Int(1);
  VITSCALE_RETURN_IF_ERROR(query.status());
  return marks;
}

// ---- writing -----------------------------------------------------------------

void ControlStore::Start(Callbacks callbacks) {
  callbacks_ = std::move(callbacks);
  thread_ = std::thread([this] { Loop(); });
}

void ControlStore::Commit(PersistAction persist) {
  std::lock_guard<std::mutex> lock(mutex_);
  queue_.push_back(std::move(persist));
  changed_.notify_one();
}

void ControlStore::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void ControlStore::Loop() {
  int64_t batches = 0;
  while (true) {
    std::vector<PersistAction> batch;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      std::move(queue_.begin(), queue_.end(), std::back_inserter(batch));
      queue_.clear();
    }
    CommitBatch(std::move(batch));
    if (++batches % 10000 == 0) {
      if (const absl::Status status = Prune(); !status.ok())
        VITSCALE_LOG(WARNING) << status.message();
    }
  }
}

// Tries until it succeeds: order is kept, nothing is dropped, and meanwhile the core refuses
// mutations.
void ControlStore::CommitBatch(std::vector<PersistAction> batch) {
  bool writable = true;
  absl::Duration took;
  absl::Duration wait = options_.retry_min;
  while (true) {
    const absl::Time start = absl::Now();
    const absl::Status status = TryCommit(batch, batch_number_ + 1);
    if (status.ok()) {
      ++batch_number_;
      took = absl::Now() - start;
      break;
    }
    VITSCALE_LOG(ERROR) << "store: " << status.message() << "; retried in "
                        << absl::FormatDuration(wait);
    if (writable && callbacks_.writable) callbacks_.writable(false);
    writable = false;
    std::unique_lock<std::mutex> lock(mutex_);
    if (changed_.wait_for(lock, absl::ToChronoMilliseconds(wait), [this] { return stopping_; }))
      return;
    wait = std::min(2 * wait, options_.retry_max);
  }
  if (!writable && callbacks_.writable) callbacks_.writable(true);
  if (!callbacks_.committed) return;
  for (PersistAction& persist : batch)
    callbacks_.committed({persist.id, std::move(persist.changes), took});
}

// An error of COMMIT does not say whether it happened: the batch number, written in it, does.
absl::Status ControlStore::TryCommit(std::vector<PersistAction>& batch, int64_t batch_number) {
  VITSCALE_RETURN_IF_ERROR(writer_->Execute("BEGIN IMMEDIATE"));
  int64_t sequence = last_event_;
  absl::Status status;
  for (PersistAction& persist : batch) {
    status = Write(persist.changes, &sequence);
    if (!status.ok()) break;
  }
  status.Update(
      writer_->Prepare("UPDATE meta SET value = ? WHERE key = 'batch'").Bind(batch_number).Run());
  if (status.ok() && options_.fault) status = options_.fault("commit");
  if (status.ok()) {
    status = writer_->Execute("COMMIT");
    if (status.ok() && options_.fault) status = options_.fault("committed");
  }
  if (!status.ok()) {
    (void)writer_->Execute("ROLLBACK");
    if (!WasCommitted(batch_number)) return status;
  }
  last_event_ = sequence;
  return absl::OkStatus();
}

bool ControlStore::WasCommitted(int64_t batch_number) {
  const auto stored = ReadInt(*writer_, "SELECT value FROM meta WHERE key = 'batch'");
  return stored.ok() && *stored >= batch_number;
}

absl::Status ControlStore::Write(Changes& changes, int64_t* sequence) {
  Database& db = *writer_;
  for (const JobRow& row : changes.jobs) {
    VITSCALE_RETURN_IF_ERROR(db.Prepare("INSERT INTO jobs(id, number, row) VALUES(?, ?, ?) "
                                        "ON CONFLICT(id) DO UPDATE SET row = excluded.row")
                                 .Bind(row.job().id())
                                 .Bind(row.number())
                                 .BindBlob(row.SerializeAsString())
                                 .Run());
  }
  for (const WorkerRow& row : changes.workers) {
    VITSCALE_RETURN_IF_ERROR(db.Prepare("INSERT OR REPLACE INTO workers VALUES(?, ?)")
                                 .Bind(row.worker().id())
                                 .BindBlob(row.SerializeAsString())
                                 .Run());
  }
  for (const std::string& id : changes.removed_workers) {
    VITSCALE_RETURN_IF_ERROR(db.Prepare("DELETE FROM workers WHERE id = ?").Bind(id).Run());
  }
  for (v1::Event& event : changes.events) {
    event.set_sequence(++*sequence);
    VITSCALE_RETURN_IF_ERROR(db.Prepare("INSERT INTO events VALUES(?, ?, ?)")
                                 .Bind(event.sequence())
                                 .Bind(event.job_id())
                                 .BindBlob(event.SerializeAsString())
                                 .Run());
  }
  for (const v1::CheckpointInfo& info : changes.checkpoints) {
    VITSCALE_RETURN_IF_ERROR(
        db.Prepare("INSERT OR REPLACE INTO checkpoints VALUES(?, ?, ?, ?, ?, ?, ?, ?)")
            .Bind(info.id())
            .Bind(info.id().substr(0, info.id().find('/')))
            .Bind(info.lineage())
            .Bind(info.step())
            .Bind(info.attempt())
            .Bind(info.generation())
            .Bind(info.pinned() ? 1 : 0)
            .BindBlob(info.SerializeAsString())
            .Run());
  }
  for (const RequestRow& row : changes.requests) {
    VITSCALE_RETURN_IF_ERROR(db.Prepare("INSERT OR REPLACE INTO requests VALUES(?, ?, ?, ?)")
                                 .Bind(row.id)
                                 .Bind(static_cast<int64_t>(row.hash))
                                 .BindBlob(row.answer)
                                 .Bind(absl::ToUnixSeconds(row.time))
                                 .Run());
  }
  for (const OwnerRow& row : changes.owners) {
    VITSCALE_RETURN_IF_ERROR(db.Prepare("INSERT OR REPLACE INTO owners VALUES(?, ?)")
                                 .Bind(row.name())
                                 .BindBlob(row.SerializeAsString())
                                 .Run());
  }
  for (const AttemptRow& row : changes.attempts) {
    VITSCALE_RETURN_IF_ERROR(db.Prepare("INSERT OR REPLACE INTO attempts VALUES(?, ?, ?)")
                                 .Bind(row.job_id())
                                 .Bind(row.attempt())
                                 .BindBlob(row.SerializeAsString())
                                 .Run());
  }
  for (const SpoolMark& mark : changes.marks) {
    VITSCALE_RETURN_IF_ERROR(db.Prepare("INSERT INTO spools VALUES(?, ?) ON CONFLICT(incarnation) "
                                        "DO UPDATE SET number = max(number, excluded.number)")
                                 .Bind(mark.incarnation)
                                 .Bind(mark.number)
                                 .Run());
  }
  return absl::OkStatus();
}

// ---- reading -----------------------------------------------------------------

absl::StatusOr<std::vector<v1::Event>> ControlStore::Events(int64_t after,
                                                            const std::string& job_id, int limit) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  VITSCALE_ASSIGN_OR_RETURN(const int64_t compacted,
                            ReadInt(*reader_, "SELECT value FROM meta WHERE key = 'compacted'"));
  if (after > 0 && after < compacted) {
    return absl::OutOfRangeError(absl::StrCat("events up to ", compacted, " are compacted; ", after,
                                              " was the last one seen: list again"));
  }
  std::vector<v1::Event> events;
  Query query = job_id.empty()
                    ? reader_->Prepare(
                          "SELECT record FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?")
                    : reader_->Prepare(
                          "SELECT record FROM events WHERE job = ? AND sequence > ? "
                          "ORDER BY sequence LIMIT ?");
  if (!job_id.empty()) query.Bind(job_id);
  query.Bind(after).Bind(limit);
  while (query.Next()) {
    const absl::string_view blob = query.Blob(0);
    events.emplace_back().ParseFromArray(blob.data(), static_cast<int>(blob.size()));
  }
  VITSCALE_RETURN_IF_ERROR(query.status());
  return events;
}

absl::StatusOr<int64_t> ControlStore::LastEvent() {
  std::lock_guard<std::mutex> lock(read_mutex_);
  return ReadInt(*reader_, "SELECT max(sequence) FROM events");
}

absl::StatusOr<std::vector<v1::CheckpointInfo>> ControlStore::Checkpoints(
    const std::string& job_id) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  std::vector<v1::CheckpointInfo> infos;
  Query query = reader_->Prepare(
      "SELECT record FROM checkpoints WHERE job = ? ORDER BY lineage DESC, step DESC, attempt "
      "DESC, generation DESC");
  query.Bind(job_id);
  while (query.Next()) {
    const absl::string_view blob = query.Blob(0);
    infos.emplace_back().ParseFromArray(blob.data(), static_cast<int>(blob.size()));
  }
  VITSCALE_RETURN_IF_ERROR(query.status());
  return infos;
}

absl::StatusOr<v1::CheckpointInfo> ControlStore::Checkpoint(const std::string& id) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query = reader_->Prepare("SELECT record FROM checkpoints WHERE id = ?");
  query.Bind(id);
  if (!query.Next()) {
    VITSCALE_RETURN_IF_ERROR(query.status());
    return absl::NotFoundError(absl::StrCat("no checkpoint '", id, "'"));
  }
  v1::CheckpointInfo info;
  const absl::string_view blob = query.Blob(0);
  info.ParseFromArray(blob.data(), static_cast<int>(blob.size()));
  return info;
}

absl::StatusOr<std::optional<RequestRow>> ControlStore::FindRequest(const std::string& id) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query = reader_->Prepare("SELECT hash, answer, time FROM requests WHERE id = ?");
  query.Bind(id);
  if (!query.Next()) {
    VITSCALE_RETURN_IF_ERROR(query.status());
    return std::optional<RequestRow>();
  }
  return RequestRow{id, static_cast<uint64_t>(query.Int(0)), query.Text(1),
                    absl::FromUnixSeconds(query.Int(2))};
}

absl::StatusOr<std::vector<std::string>> ControlStore::AttemptWorkers(const std::string& job_id,
                                                                      int64_t attempt) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query = reader_->Prepare("SELECT row FROM attempts WHERE job = ? AND attempt = ?");
  query.Bind(job_id).Bind(attempt);
  std::vector<std::string> workers;
  if (query.Next()) {
    AttemptRow row;
    const absl::string_view blob = query.Blob(0);
    row.ParseFromArray(blob.data(), static_cast<int>(blob.size()));
    workers.assign(row.workers().begin(), row.workers().end());
  }
  VITSCALE_RETURN_IF_ERROR(query.status());
  return workers;
}

}  // namespace vitscale
