#include "server/store/step_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/core/convert.h"

namespace vitscale {
namespace {

constexpr int kSchemaVersion = 1;
constexpr size_t kLineBytesMax = 8192;
constexpr char kSchema[] = R"sql(
CREATE TABLE steps(job TEXT NOT NULL, step INTEGER NOT NULL, generation INTEGER NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY(job, step)) WITHOUT ROWID;
CREATE TABLE evals(job TEXT NOT NULL, step INTEGER NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,
  record BLOB NOT NULL, PRIMARY KEY(job, step, name)) WITHOUT ROWID;
CREATE TABLE logs(job TEXT NOT NULL, sequence INTEGER NOT NULL, rank INTEGER NOT NULL, time INTEGER NOT NULL,
  record BLOB NOT NULL, PRIMARY KEY(job, sequence)) WITHOUT ROWID;
CREATE TABLE spools(incarnation TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
)sql";

template <typename Record>
absl::StatusOr<std::vector<Record>> ReadAll(Query& query) {
  std::vector<Record> records;
  while (query.Next()) {
    const absl::string_view blob = query.Blob(0);
    records.emplace_back().ParseFromArray(blob.data(), static_cast<int>(blob.size()));
  }
  VITSCALE_RETURN_IF_ERROR(query.status());
  return records;
}

double PhaseSeconds(const v1::StepRecord& step, const char* phase) {
  const auto it = step.phase_seconds().find(phase);
  return it == step.phase_seconds().end() ? 0 : it->second;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepStore>> StepStore::Open(const std::string& path,
                                                           StepStoreOptions options) {
  std::unique_ptr<StepStore> store(new StepStore(options));
  VITSCALE_ASSIGN_OR_RETURN(store->writer_, Database::Open(path, Database::Mode::kReadWrite));
  VITSCALE_RETURN_IF_ERROR(OpenSchema(*store->writer_, kSchemaVersion, kSchema));
  VITSCALE_ASSIGN_OR_RETURN(store->reader_, Database::Open(path, Database::Mode::kReadOnly));
  return store;
}

StepStore::~StepStore() { Stop(); }

void StepStore::Start(Callbacks callbacks) {
  callbacks_ = std::move(callbacks);
  thread_ = std::thread([this] { Loop(); });
}

void StepStore::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void StepStore::Add(const std::string& worker_id, std::vector<v1::SpooledRecord> records,
                    std::function<void()> done) {
  std::lock_guard<std::mutex> lock(mutex_);
  waiting_ += static_cast<int64_t>(records.size());
  queue_.push_back({worker_id, std::move(records), std::move(done)});
  changed_.notify_one();
}

void StepStore::AddLog(const std::string& job_id, v1::LogLine line) {
  v1::SpooledRecord record;
  record.set_job_id(job_id);
  *record.mutable_log() = std::move(line);
  Add("", {record}, nullptr);
}

bool StepStore::Full() {
  std::lock_guard<std::mutex> lock(mutex_);
  return waiting_ > options_.waiting_max;
}

void StepStore::Loop() {
  while (true) {
    std::vector<Waiting> batch;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      changed_.wait_for(lock, absl::ToChronoMilliseconds(options_.batch),
                        [this] { return stopping_; });
      batch.swap(queue_);
      waiting_ = 0;
    }
    std::map<std::string, JobChange> changes;
    while (true) {
      changes.clear();
      const absl::Status status = TryCommit(batch, &changes);
      if (status.ok()) break;
      VITSCALE_LOG(ERROR) << "store: " << status.message() << "; retried";
      std::unique_lock<std::mutex> lock(mutex_);
      if (changed_.wait_for(lock, absl::ToChronoMilliseconds(options_.retry),
                            [this] { return stopping_; }))
        return;
    }
    if (callbacks_.changed && !changes.empty()) callbacks_.changed(std::move(changes));
    for (Waiting& waiting : batch) {
      if (waiting.done) waiting.done();
    }
  }
}

// Every row is an upsert and the marks are in the transaction, so that doing it twice does no harm.
absl::Status StepStore::TryCommit(const std::vector<Waiting>& batch,
                                  std::map<std::string, JobChange>* changes) {
  marks_.clear();
  next_lines_.clear();
  VITSCALE_RETURN_IF_ERROR(writer_->Execute("BEGIN IMMEDIATE"));
  absl::Status status;
  for (const Waiting& waiting : batch) {
    for (const v1::SpooledRecord& record : waiting.records) {
      if (status.ok()) status = Write(waiting.worker_id, record, changes);
    }
  }
  for (const auto& [incarnation, number] : marks_) {
    if (!status.ok() || incarnation.empty()) continue;
    status = writer_->Prepare("INSERT OR REPLACE INTO spools VALUES(?, ?)")
                 .Bind(incarnation)
                 .Bind(number)
                 .Run();
  }
  if (status.ok()) status = writer_->Execute("COMMIT");
  if (!status.ok()) (void)writer_->Execute("ROLLBACK");
  return status;
}

absl::StatusOr<int64_t> StepStore::Mark(const std::string& incarnation) {
  const auto it = marks_.find(incarnation);
  if (it != marks_.end()) return it->second;
  Query query = writer_->Prepare("SELECT number FROM spools WHERE incarnation = ?");
  query.Bind(incarnation);
  const int64_t mark = query.Next() ? query.Int(0) : 0;
  VITSCALE_RETURN_IF_ERROR(query.status());
  return marks_[incarnation] = mark;
}

absl::Status StepStore::Write(const std::string& worker_id, const v1::SpooledRecord& record,
                              std::map<std::string, JobChange>* changes) {
  if (!record.incarnation().empty()) {
    VITSCALE_ASSIGN_OR_RETURN(const int64_t mark, Mark(record.incarnation()));
    if (record.number() <= mark) return absl::OkStatus();
    marks_[record.incarnation()] = record.number();
  }
  if (!record.has_step() && !record.has_eval() && !record.has_log() && !record.has_gap())
    return absl::OkStatus();
  JobChange& change = (*changes)[record.job_id()];
  change.steps.job_id = record.job_id();
  if (record.has_step()) return WriteStep(record, &change);
  if (record.has_eval()) return WriteEval(record, &change);
  change.logs = true;
  if (record.has_log()) return WriteLog(worker_id, record.job_id(), record.log());
  v1::LogLine line;
  line.set_rank(-1);
  line.set_text(absl::StrCat("steps ", record.gap().first_step(), " to ", record.gap().last_step(),
                             " were thinned out: the spool of ", worker_id, " was full"));
  line.set_attempt(record.attempt());
  *line.mutable_time() = ToProto(absl::Now());
  return WriteLog(worker_id, record.job_id(), line);
}

absl::Status StepStore::WriteStep(const v1::SpooledRecord& record, JobChange* change) {
  v1::StepRecord step = record.step();
  if (step.generation() == 0) step.set_generation(record.generation());
  Query known = writer_->Prepare("SELECT generation FROM steps WHERE job = ? AND step = ?");
  known.Bind(record.job_id()).Bind(step.step());
  const bool again = known.Next();
  VITSCALE_RETURN_IF_ERROR(known.status());
  if (again && known.Int(0) >= step.generation()) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(writer_->Prepare("INSERT OR REPLACE INTO steps VALUES(?, ?, ?, ?)")
                               .Bind(record.job_id())
                               .Bind(step.step())
                               .Bind(step.generation())
                               .BindBlob(step.SerializeAsString())
                               .Run());
  ++change->stored;
  StepsEvent& steps = change->steps;
  if (again) {
    steps.recomputed_seconds += step.step_seconds();
  } else {
    steps.checkpoint_seconds += PhaseSeconds(step, "checkpoint");
    steps.input_seconds += PhaseSeconds(step, "input");
  }
  if (!steps.newest.has_value() || step.generation() > steps.newest->generation() ||
      (step.generation() == steps.newest->generation() && step.step() > steps.newest->step())) {
    steps.newest = std::move(step);
  }
  return absl::OkStatus();
}

absl::Status StepStore::WriteEval(const v1::SpooledRecord& record, JobChange* change) {
  v1::EvalRecord eval = record.eval();
  if (eval.generation() == 0) eval.set_generation(record.generation());
  VITSCALE_RETURN_IF_ERROR(
      writer_
          ->Prepare(
              "INSERT INTO evals VALUES(?, ?, ?, ?, ?) ON CONFLICT(job, step, name) DO UPDATE SET "
              "generation = excluded.generation, record = excluded.record "
              "WHERE excluded.generation > generation")
          .Bind(record.job_id())
          .Bind(eval.step())
          .Bind(eval.name())
          .Bind(eval.generation())
          .BindBlob(eval.SerializeAsString())
          .Run());
  if (writer_->changes() > 0) change->steps.evals.push_back(std::move(eval));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> StepStore::NextLine(const std::string& job_id) {
  auto [it, fresh] = next_lines_.try_emplace(job_id, 0);
  if (fresh) {
    Query query = writer_->Prepare("SELECT max(sequence) FROM logs WHERE job = ?");
    query.Bind(job_id);
    if (query.Next()) it->second = query.Int(0);
    VITSCALE_RETURN_IF_ERROR(query.status());
  }
  return ++it->second;
}

absl::Status StepStore::WriteLog(const std::string& worker_id, const std::string& job_id,
                                 v1::LogLine line) {
  VITSCALE_ASSIGN_OR_RETURN(const int64_t sequence, NextLine(job_id));
  line.set_sequence(sequence);
  if (!worker_id.empty()) line.set_worker_id(worker_id);
  if (line.text().size() > kLineBytesMax) line.mutable_text()->resize(kLineBytesMax);
  VITSCALE_RETURN_IF_ERROR(writer_->Prepare("INSERT OR REPLACE INTO logs VALUES(?, ?, ?, ?, ?)")
                               .Bind(job_id)
                               .Bind(sequence)
                               .Bind(line.rank())
                               .Bind(absl::ToUnixMillis(FromProto(line.time())))
                               .BindBlob(line.SerializeAsString())
                               .Run());
  if (sequence % 1000 != 0) return absl::OkStatus();
  return writer_->Prepare("DELETE FROM logs WHERE job = ? AND sequence <= ?")
      .Bind(job_id)
      .Bind(sequence - options_.log_lines_max)
      .Run();
}

// ---- reading -----------------------------------------------------------------

absl::StatusOr<std::vector<v1::StepRecord>> StepStore::Steps(const std::string& job_id,
                                                             int64_t after, int limit) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query =
      reader_->Prepare("SELECT record FROM steps WHERE job = ? AND step > ? ORDER BY step LIMIT ?");
  query.Bind(job_id).Bind(after).Bind(limit);
  return ReadAll<v1::StepRecord>(query);
}

absl::StatusOr<std::vector<v1::EvalRecord>> StepStore::Evals(const std::string& job_id) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query = reader_->Prepare("SELECT record FROM evals WHERE job = ? ORDER BY step, name");
  query.Bind(job_id);
  return ReadAll<v1::EvalRecord>(query);
}

absl::StatusOr<std::vector<v1::LogLine>> StepStore::Logs(const std::string& job_id, int64_t after,
                                                         int rank, absl::Time since, int limit) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query = reader_->Prepare(
      "SELECT record FROM logs WHERE job = ? AND sequence > ? AND (? = -1 OR rank = ?) AND time >= "
      "? "
      "ORDER BY sequence LIMIT ?");
  query.Bind(job_id).Bind(after).Bind(rank).Bind(rank).Bind(absl::ToUnixMillis(since)).Bind(limit);
  return ReadAll<v1::LogLine>(query);
}

absl::StatusOr<int64_t> StepStore::LogStart(const std::string& job_id, int rank, int tail) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query = reader_->Prepare(
      "SELECT sequence FROM logs WHERE job = ? AND (? = -1 OR rank = ?) ORDER BY sequence DESC "
      "LIMIT 1 OFFSET ?");
  query.Bind(job_id).Bind(rank).Bind(rank).Bind(tail);
  const int64_t start = query.Next() ? query.Int(0) : 0;
  VITSCALE_RETURN_IF_ERROR(query.status());
  return start;
}

absl::StatusOr<int64_t> StepStore::LastStep(const std::string& job_id) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query = reader_->Prepare("SELECT max(step) FROM steps WHERE job = ?");
  query.Bind(job_id);
  const int64_t last = query.Next() ? query.Int(0) : 0;
  VITSCALE_RETURN_IF_ERROR(query.status());
  return last;
}

absl::StatusOr<v1::StepRecord> StepStore::Newest(const std::string& job_id) {
  std::lock_guard<std::mutex> lock(read_mutex_);
  Query query = reader_->Prepare(
      "SELECT record FROM steps WHERE job = ? ORDER BY generation DESC, step DESC LIMIT 1");
  query.Bind(job_id);
  VITSCALE_ASSIGN_OR_RETURN(std::vector<v1::StepRecord> records, ReadAll<v1::StepRecord>(query));
  return records.empty() ? v1::StepRecord() : std::move(records[0]);
}

}  // namespace vitscale
