#include "tests/fault/fault_file.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"

namespace vitscale {

struct FaultFileSystem::Node {
  bool is_directory = false;
  std::string bytes, durable_bytes;
  std::map<std::string, NodePtr> entries, durable_entries;
  absl::Time modified;
};

namespace {
absl::Status PathError(int error, const std::string& verb, const std::string& path) {
  return ErrnoStatus(error, absl::StrCat(verb, " '", path, "'"));
}
}  // namespace

class FaultFileSystem::Writer : public WritableFile {
 public:
  Writer(FaultFileSystem& fs, NodePtr node, std::string path)
      : fs_(fs), node_(std::move(node)), path_(std::move(path)), life_(fs.life_) {}

  absl::Status Append(absl::string_view bytes) override {
    std::lock_guard<std::mutex> lock(fs_.mutex_);
    VITSCALE_RETURN_IF_ERROR(CheckLife());
    const absl::Status status = fs_.Change("append", path_);
    if (!status.ok()) bytes = bytes.substr(0, bytes.size() / 2);  // a short write
    const int64_t room = fs_.capacity_ - fs_.UsedBytes(fs_.root_);
    const bool full = static_cast<int64_t>(bytes.size()) > room;
    if (full) bytes = bytes.substr(0, std::max<int64_t>(room, 0));
    node_->bytes.append(bytes.data(), bytes.size());
    node_->modified = fs_.now_;
    if (!status.ok()) return status;
    return full ? PathError(ENOSPC, "write", path_) : absl::OkStatus();
  }
  absl::Status Sync() override {
    std::lock_guard<std::mutex> lock(fs_.mutex_);
    VITSCALE_RETURN_IF_ERROR(CheckLife());
    VITSCALE_RETURN_IF_ERROR(fs_.Change("sync", path_));
    node_->durable_bytes = node_->bytes;
    return absl::OkStatus();
  }
  absl::Status Close() override {
    std::lock_guard<std::mutex> lock(fs_.mutex_);
    VITSCALE_RETURN_IF_ERROR(CheckLife());
    return fs_.Change("close", path_);
  }

 private:
  absl::Status CheckLife() const {
    if (life_ != fs_.life_) return absl::UnavailableError("crashed: a file of an earlier life");
    return absl::OkStatus();
  }

  FaultFileSystem& fs_;
  NodePtr node_;
  std::string path_;
  int64_t life_;
};

class FaultFileSystem::Reader : public ReadableFile {
 public:
  Reader(const FaultFileSystem& fs, NodePtr node, std::string path)
      : fs_(fs),
        node_(std::move(node)),
        path_(std::move(path)),
        size_(static_cast<int64_t>(node_->bytes.size())) {}

  int64_t size() const override { return size_; }
  absl::Status ReadAt(int64_t offset, absl::Span<char> bytes) const override {
    std::lock_guard<std::mutex> lock(fs_.mutex_);
    VITSCALE_RETURN_IF_ERROR(fs_.CheckAlive());
    const int64_t end = offset + static_cast<int64_t>(bytes.size());
    if (offset < 0 || end > static_cast<int64_t>(node_->bytes.size())) {
      return absl::OutOfRangeError(absl::StrCat("short read of '", path_, "'"));
    }
    std::copy_n(node_->bytes.data() + offset, bytes.size(), bytes.data());
    return absl::OkStatus();
  }

 private:
  const FaultFileSystem& fs_;
  NodePtr node_;
  std::string path_;
  int64_t size_;
};

FaultFileSystem::FaultFileSystem(uint64_t seed)
    : root_(std::make_shared<Node>()),
      random_(SeededRandom(seed)),
      now_(absl::FromUnixSeconds(1'700'000'000)) {
  root_->is_directory = true;
  root_->modified = now_;
}

FaultFileSystem::~FaultFileSystem() = default;

// ---- faults --------------------------------------------------------------------

int64_t FaultFileSystem::operations() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return operations_;
}

void FaultFileSystem::CrashAt(int64_t number) {
  std::lock_guard<std::mutex> lock(mutex_);
  crash_at_ = number;
}

bool FaultFileSystem::crashed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return !CheckAlive().ok();
}

void FaultFileSystem::SetHook(std::function<absl::Status(const FileOperation&)> hook) {
  std::lock_guard<std::mutex> lock(mutex_);
  hook_ = std::move(hook);
}

void FaultFileSystem::SetCapacity(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  capacity_ = bytes;
}

void FaultFileSystem::Restart(AfterCrash how) {
  std::lock_guard<std::mutex> lock(mutex_);
  crash_at_ = std::numeric_limits<int64_t>::max();
  ++life_;
  Forget(root_, how);
}

absl::Status FaultFileSystem::CheckAlive() const {
  if (operations_ > crash_at_) return absl::UnavailableError("crashed");
  return absl::OkStatus();
}

absl::Status FaultFileSystem::Change(const std::string& kind, const std::string& path) {
  const FileOperation operation{kind, path, operations_++};
  VITSCALE_RETURN_IF_ERROR(CheckAlive());
  return hook_ == nullptr ? absl::OkStatus() : hook_(operation);
}

// What the disk holds becomes what is seen, and what is seen becomes durable: from here on it is
// the disk.
void FaultFileSystem::Forget(const NodePtr& node, AfterCrash how) {
  const auto keep = [&] {
    return how == AfterCrash::kKeepAll || (how == AfterCrash::kRandom && random_->Next() % 2 == 0);
  };
  if (node->is_directory) {
    std::map<std::string, NodePtr> left = node->durable_entries;
    std::map<std::string, NodePtr> all = node->durable_entries;
    all.insert(node->entries.begin(), node->entries.end());
    for (const auto& [name, unused] : all) {
      const auto seen = node->entries.find(name);
      const auto disk = node->durable_entries.find(name);
      const bool same = seen != node->entries.end() && disk != node->durable_entries.end() &&
                        seen->second == disk->second;
      if (same || !keep()) continue;
      if (seen == node->entries.end()) {
        left.erase(name);
      } else {
        left[name] = seen->second;
      }
    }
    node->entries = node->durable_entries = left;
    for (const auto& [name, child] : left) Forget(child, how);
    return;
  }
  if (how == AfterCrash::kLoseUnsynced) node->bytes = node->durable_bytes;
  const size_t durable = node->durable_bytes.size();
  if (how == AfterCrash::kRandom && node->bytes.size() > durable) {
    node->bytes.resize(durable + random_->Next() % (node->bytes.size() - durable + 1));
    if (!keep())
      std::fill(node->bytes.begin() + durable, node->bytes.end(), '\0');  // size but no pages
  }
  node->durable_bytes = node->bytes;
}

// ---- damage --------------------------------------------------------------------

void FaultFileSystem::FlipBit(const std::string& path, int64_t byte, int bit) {
  std::lock_guard<std::mutex> lock(mutex_);
  const NodePtr node = Find(path);
  VITSCALE_CHECK(node != nullptr && byte < static_cast<int64_t>(node->bytes.size())) << path;
  node->bytes[byte] = static_cast<char>(node->bytes[byte] ^ (1 << bit));
  node->durable_bytes = node->bytes;
}

void FaultFileSystem::Truncate(const std::string& path, int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  const NodePtr node = Find(path);
  VITSCALE_CHECK(node != nullptr) << path;
  node->bytes.resize(bytes);
  node->durable_bytes = node->bytes;
}

void FaultFileSystem::Stamp(const NodePtr& node, absl::Time time) {
  node->modified = time;
  for (const auto& [name, child] : node->entries) Stamp(child, time);
}

void FaultFileSystem::SetModified(const std::string& path, absl::Time time) {
  std::lock_guard<std::mutex> lock(mutex_);
  const NodePtr node = Find(path);
  VITSCALE_CHECK(node != nullptr) << path;
  Stamp(node, time);
}

void FaultFileSystem::SetNow(absl::Time now) {
  std::lock_guard<std::mutex> lock(mutex_);
  now_ = now;
}

void FaultFileSystem::Collect(const NodePtr& node, const std::string& path,
                              std::vector<std::string>* files) const {
  if (!node->is_directory) files->push_back(path);
  for (const auto& [name, child] : node->entries) Collect(child, JoinPath(path, name), files);
}

std::vector<std::string> FaultFileSystem::AllFiles() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::string> files;
  Collect(root_, "/", &files);
  return files;
}

// ---- finding -------------------------------------------------------------------

FaultFileSystem::NodePtr FaultFileSystem::Find(const std::string& path) const {
  NodePtr node = root_;
  for (const std::string& part :
       std::vector<std::string>(absl::StrSplit(path, '/', absl::SkipEmpty()))) {
    const auto found = node->entries.find(part);
    if (found == node->entries.end()) return nullptr;
    node = found->second;
  }
  return node;
}

absl::StatusOr<FaultFileSystem::NodePtr> FaultFileSystem::FindOrError(
    const std::string& verb, const std::string& path) const {
  VITSCALE_RETURN_IF_ERROR(CheckAlive());
  NodePtr node = Find(path);
  if (node == nullptr) return PathError(ENOENT, verb, path);
  return node;
}

absl::StatusOr<FaultFileSystem::NodePtr> FaultFileSystem::ParentOf(const std::string& verb,
                                                                   const std::string& path) const {
  NodePtr node = Find(DirectoryName(path));
  if (node == nullptr) return PathError(ENOENT, verb, path);
  if (!node->is_directory) return PathError(ENOTDIR, verb, path);
  return node;
}

int64_t FaultFileSystem::UsedBytes(const NodePtr& node) const {
  int64_t total = static_cast<int64_t>(node->bytes.size());
  for (const auto& [name, child] : node->entries) total += UsedBytes(child);
  return total;
}

// ---- FileSystem ----------------------------------------------------------------

absl::StatusOr<std::unique_ptr<WritableFile>> FaultFileSystem::CreateExclusive(
    const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_RETURN_IF_ERROR(Change("create", path));
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr parent, ParentOf("create", path));
  NodePtr& node = parent->entries[BaseName(path)];
  if (node != nullptr) return PathError(EEXIST, "create", path);
  node = std::make_shared<Node>();
  node->modified = parent->modified = now_;
  return std::make_unique<Writer>(*this, node, path);
}

absl::StatusOr<std::unique_ptr<ReadableFile>> FaultFileSystem::Open(const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_ASSIGN_OR_RETURN(NodePtr node, FindOrError("open", path));
  if (node->is_directory) return PathError(EISDIR, "open", path);
  return std::make_unique<Reader>(*this, std::move(node), path);
}

absl::StatusOr<std::string> FaultFileSystem::ReadFile(const std::string& path, int64_t bytes_max) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr node, FindOrError("open", path));
  if (node->is_directory) return PathError(EISDIR, "read", path);
  if (static_cast<int64_t>(node->bytes.size()) > bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("read '", path, "': longer than ", bytes_max));
  }
  return node->bytes;
}

absl::StatusOr<std::vector<std::string>> FaultFileSystem::List(const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr node, FindOrError("list", path));
  if (!node->is_directory) return PathError(ENOTDIR, "list", path);
  std::vector<std::string> names;
  for (const auto& [name, child] : node->entries) names.push_back(name);
  return names;
}

absl::StatusOr<FileInfo> FaultFileSystem::Stat(const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr node, FindOrError("stat", path));
  FileInfo info;
  info.bytes = static_cast<int64_t>(node->bytes.size());
  info.is_directory = node->is_directory;
  info.is_regular = !node->is_directory;
  info.modified = node->modified;
  return info;
}

absl::StatusOr<std::string> FaultFileSystem::RealPath(const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_RETURN_IF_ERROR(FindOrError("resolve", path));
  return path;
}

absl::Status FaultFileSystem::MakeDirectory(const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_RETURN_IF_ERROR(Change("make", path));
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr parent, ParentOf("make directory", path));
  NodePtr& node = parent->entries[BaseName(path)];
  if (node != nullptr) return PathError(EEXIST, "make directory", path);
  node = std::make_shared<Node>();
  node->is_directory = true;
  node->modified = parent->modified = now_;
  return absl::OkStatus();
}

absl::Status FaultFileSystem::MakeDirectories(const std::string& path) {
  std::string prefix;
  for (const std::string& part :
       std::vector<std::string>(absl::StrSplit(path, '/', absl::SkipEmpty()))) {
    absl::StrAppend(&prefix, "/", part);
    const absl::Status made = MakeDirectory(prefix);
    if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
  }
  return absl::OkStatus();
}

absl::Status FaultFileSystem::Rename(const std::string& from, const std::string& to) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_RETURN_IF_ERROR(Change("rename", to));
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr node, FindOrError("rename", from));
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr target, ParentOf("rename", to));
  const NodePtr replaced = Find(to);
  if (replaced != nullptr && replaced->is_directory && !replaced->entries.empty()) {
    return PathError(ENOTEMPTY, "rename", to);
  }
  Find(DirectoryName(from))->entries.erase(BaseName(from));
  target->entries[BaseName(to)] = node;
  return absl::OkStatus();
}

absl::Status FaultFileSystem::Remove(const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_RETURN_IF_ERROR(Change("remove", path));
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr node, FindOrError("remove", path));
  if (!node->entries.empty()) return PathError(ENOTEMPTY, "remove", path);
  const NodePtr parent = Find(DirectoryName(path));
  parent->entries.erase(BaseName(path));
  parent->modified = now_;
  return absl::OkStatus();
}

absl::Status FaultFileSystem::SyncDirectory(const std::string& path) {
  std::lock_guard<std::mutex> lock(mutex_);
  VITSCALE_RETURN_IF_ERROR(Change("sync_directory", path));
  VITSCALE_ASSIGN_OR_RETURN(const NodePtr node, FindOrError("sync directory", path));
  node->durable_entries = node->entries;
  return absl::OkStatus();
}

}  // namespace vitscale
