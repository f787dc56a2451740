// The one wrapper over SQLite: errors as Status, statements prepared once and kept.
//
// A Database is used by one thread at a time. WAL and synchronous=FULL: what COMMIT returned is on
// the disk, and readers of other connections never wait for the writer.

#ifndef SERVER_STORE_SQLITE_H_
#define SERVER_STORE_SQLITE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace vitscale {

class Database;

// A prepared statement with its bindings; reset when it goes out of scope.
//
//   Query query = db.Prepare("SELECT row FROM jobs WHERE id = ?").Bind(id);
//   while (query.Next()) Use(query.Blob(0));
//   VITSCALE_RETURN_IF_ERROR(query.status());
class Query {
 public:
  Query(Database* database, sqlite3_stmt* statement, std::string sql)
      : database_(database), statement_(statement), sql_(std::move(sql)) {}
  Query(Query&& other) noexcept;
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;
  ~Query();

  Query& Bind(int64_t value);
  Query& Bind(int value) { return Bind(static_cast<int64_t>(value)); }
  Query& Bind(double value);
  Query& Bind(absl::string_view value);  // as a blob-safe text
  Query& BindBlob(absl::string_view value);

  bool Next();         // true: there is a row
  absl::Status Run();  // for statements without rows
  int64_t Int(int column) const;
  double Real(int column) const;
  std::string Text(int column) const;
  absl::string_view Blob(int column) const;  // until the next call of Next
  const absl::Status& status() const { return status_; }

 private:
  void Check(int code);

  Database* database_;
  sqlite3_stmt* statement_;
  std::string sql_;
  int bound_ = 0;
  absl::Status status_;
};

class Database {
 public:
  enum class Mode { kReadWrite, kReadOnly };
  // Creates the file (mode 0600) when it is to be written. Errors name the path.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, Mode mode);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  absl::Status Execute(const std::string& sql);  // may be several statements
  Query Prepare(const std::string& sql);
  int changes() const;  // rows touched by the last statement
  const std::string& path() const { return path_; }
  // The last error as a status: RESOURCE_EXHAUSTED for a full disk, DATA_LOSS for a damaged file,
  // else UNAVAILABLE.
  absl::Status Error(absl::string_view what) const;

 private:
  friend class Query;
  Database(std::string path, sqlite3* handle) : path_(std::move(path)), handle_(handle) {}

  std::string path_;
  sqlite3* handle_;
  std::map<std::string, sqlite3_stmt*> statements_;
};

// Creates the schema or checks its version. FAILED_PRECONDITION naming both versions if the file is
// of another.
absl::Status OpenSchema(Database& database, int version, const std::string& create);

}  // namespace vitscale

#endif  // SERVER_STORE_SQLITE_H_
