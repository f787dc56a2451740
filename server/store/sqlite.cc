#include "server/store/sqlite.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale {

// ---- Query -------------------------------------------------------------------

Query::Query(Query&& other) noexcept
    : database_(other.database_),
      statement_(std::exchange(other.statement_, nullptr)),
      sql_(std::move(other.sql_)),
      bound_(other.bound_),
      status_(other.status_) {}

Query::~Query() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

void Query::Check(int code) {
  if (code != SQLITE_OK && status_.ok()) status_ = database_->Error(sql_);
}

Query& Query::Bind(int64_t value) {
  if (statement_ != nullptr) Check(sqlite3_bind_int64(statement_, ++bound_, value));
  return *this;
}
Query& Query::Bind(double value) {
  if (statement_ != nullptr) Check(sqlite3_bind_double(statement_, ++bound_, value));
  return *this;
}
Query& Query::Bind(absl::string_view value) {
  if (statement_ != nullptr) {
    Check(sqlite3_bind_text(statement_, ++bound_, value.data(), static_cast<int>(value.size()),
                            SQLITE_TRANSIENT));
  }
  return *this;
}
Query& Query::BindBlob(absl::string_view value) {
  if (statement_ != nullptr) {
    Check(sqlite3_bind_blob(statement_, ++bound_, value.data(), static_cast<int>(value.size()),
                            SQLITE_TRANSIENT));
  }
  return *this;
}

bool Query::Next() {
  if (statement_ == nullptr && status_.ok()) status_ = database_->Error(sql_);
  if (!status_.ok()) return false;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) status_ = database_->Error(sql_);
  return false;
}

absl::Status Query::Run() {
  while (Next()) {
  }
  return status_;
}

int64_t Query::Int(int column) const { return sqlite3_column_int64(statement_, column); }
double Query::Real(int column) const { return sqlite3_column_double(statement_, column); }
std::string Query::Text(int column) const { return std::string(Blob(column)); }
absl::string_view Query::Blob(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int bytes = sqlite3_column_bytes(statement_, column);
  return data == nullptr
             ? absl::string_view()
             : absl::string_view(static_cast<const char*>(data), static_cast<size_t>(bytes));
}

// ---- Database ----------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, Mode mode) {
  int flags = SQLITE_OPEN_NOMUTEX;
  if (mode == Mode::kReadWrite) {
    // Made here so that its mode is right from the first moment on; it may hold credentials.
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
    close(fd);
    flags |= SQLITE_OPEN_READWRITE;
  } else {
    flags |= SQLITE_OPEN_READONLY;
  }
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
  std::unique_ptr<Database> database(new Database(path, handle));
  if (code != SQLITE_OK) return database->Error("open");
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 30000);
  if (mode == Mode::kReadWrite) {
    VITSCALE_RETURN_IF_ERROR(
        database->Execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"));
  }
  return database;
}

Database::~Database() {
  for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

absl::Status Database::Error(absl::string_view what) const {
  const std::string text =
      absl::StrCat("'", path_, "': ", what, ": ",
                   handle_ == nullptr ? "out of memory" : sqlite3_errmsg(handle_));
  switch (handle_ == nullptr ? SQLITE_NOMEM : (sqlite3_errcode(handle_) & 0xff)) {
    case SQLITE_FULL:
    case SQLITE_NOMEM:
      return absl::ResourceExhaustedError(text);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(text);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
      return absl::PermissionDeniedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

absl::Status Database::Execute(const std::string& sql) {
  if (sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return Error(sql);
  return absl::OkStatus();
}

Query Database::Prepare(const std::string& sql) {
  auto [it, fresh] = statements_.try_emplace(sql, nullptr);
  if (it->second == nullptr) {
    sqlite3_prepare_v3(handle_, sql.c_str(), static_cast<int>(sql.size()),
                       SQLITE_PREPARE_PERSISTENT, &it->second, nullptr);
  }
  return Query(this, it->second, sql);
}

int Database::changes() const { return sqlite3_changes(handle_); }

absl::Status OpenSchema(Database& database, int version, const std::string& create) {
  int64_t found = 0;
  {
    Query query = database.Prepare("PRAGMA user_version");
    if (query.Next()) found = query.Int(0);
    VITSCALE_RETURN_IF_ERROR(query.status());
  }
  if (found == version) return absl::OkStatus();
  if (found != 0) {
    return absl::FailedPreconditionError(absl::StrCat("'", database.path(), "' has schema version ",
                                                      found, ", this program wants ", version));
  }
  return database.Execute(
      absl::StrCat("BEGIN IMMEDIATE;", create, "PRAGMA user_version=", version, ";COMMIT;"));
}

}  // namespace vitscale
