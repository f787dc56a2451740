#include "kernels/base/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "kernels/base/unique_fd.h"

namespace vitscale {
namespace {

absl::Status PathError(int error, absl::string_view verb, const std::string& path) {
  return ErrnoStatus(error, absl::StrCat(verb, " '", path, "'"));
}

// Calls again while a signal interrupts.
template <typename F>
auto Retry(F call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

// What is there, for "… is not a regular file".
absl::string_view KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "something else";
}

// Opens a regular file for reading, and nothing else.
absl::StatusOr<UniqueFd> OpenRegular(const std::string& path, struct stat* info) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer; it means nothing for regular files.
  UniqueFd fd(Retry([&] { return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); }));
  if (!fd.valid()) return PathError(errno, "open", path);
  if (fstat(fd.get(), info) != 0) return PathError(errno, "stat", path);
  if (!S_ISREG(info->st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("open '", path, "': is ", KindOf(info->st_mode), ", not a regular file"));
  }
  return fd;
}

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  absl::Status Append(absl::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t written = Retry([&] { return write(fd_.get(), bytes.data(), bytes.size()); });
      if (written < 0) return PathError(errno, "write", path_);
      bytes.remove_prefix(written);
    }
    return absl::OkStatus();
  }
  absl::Status Sync() override {
    if (Retry([&] { return fdatasync(fd_.get()); }) != 0) return PathError(errno, "sync", path_);
    return absl::OkStatus();
  }
  absl::Status Close() override {
    const int fd = fd_.release();
    if (fd >= 0 && close(fd) != 0 && errno != EINTR) return PathError(errno, "close", path_);
    return absl::OkStatus();
  }

 private:
  UniqueFd fd_;
  std::string path_;
};

class PosixReadableFile : public ReadableFile {
 public:
  PosixReadableFile(UniqueFd fd, std::string path, int64_t size)
      : fd_(std::move(fd)), path_(std::move(path)), size_(size) {}

  int64_t size() const override { return size_; }
  absl::Status ReadAt(int64_t offset, absl::Span<char> bytes) const override {
    while (!bytes.empty()) {
      const ssize_t got =
          Retry([&] { return pread(fd_.get(), bytes.data(), bytes.size(), offset); });
      if (got < 0) return PathError(errno, "read", path_);
      if (got == 0) {
        return absl::OutOfRangeError(absl::StrCat("short read of '", path_, "': ends at ", offset,
                                                  ", ", bytes.size(), " more bytes wanted"));
      }
      bytes.remove_prefix(got);
      offset += got;
    }
    return absl::OkStatus();
  }

 private:
  UniqueFd fd_;
  std::string path_;
  int64_t size_;
};

class RealFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(const std::string& path) override {
    UniqueFd fd(
        Retry([&] { return open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); }));
    if (!fd.valid()) return PathError(errno, "create", path);
    return std::make_unique<PosixWritableFile>(std::move(fd), path);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override {
    struct stat info {};
    VITSCALE_ASSIGN_OR_RETURN(UniqueFd fd, OpenRegular(path, &info));
    return std::make_unique<PosixReadableFile>(std::move(fd), path, info.st_size);
  }

  absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t bytes_max) override {
    struct stat info {};
    VITSCALE_ASSIGN_OR_RETURN(const UniqueFd fd, OpenRegular(path, &info));
    std::string bytes;
    char buffer[1 << 16];
    while (true) {  // not by size: files under /proc have none
      const ssize_t got = Retry([&] { return read(fd.get(), buffer, sizeof(buffer)); });
      if (got < 0) return PathError(errno, "read", path);
      if (got == 0) return bytes;
      bytes.append(buffer, got);
      if (static_cast<int64_t>(bytes.size()) > bytes_max) {
        return absl::ResourceExhaustedError(
            absl::StrCat("read '", path, "': longer than the limit of ", bytes_max, " bytes"));
      }
    }
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    DIR* directory = opendir(path.c_str());
    if (directory == nullptr) return PathError(errno, "list", path);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(directory)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
      errno = 0;
    }
    const int error = errno;
    closedir(directory);
    if (error != 0) return PathError(error, "list", path);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::StatusOr<std::vector<DirectoryEntry>> ListEntries(const std::string& path) override {
    std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), &closedir);
    if (directory == nullptr) return PathError(errno, "list", path);
    std::vector<DirectoryEntry> entries;
    errno = 0;
    while (const dirent* entry = readdir(directory.get())) {
      unsigned char type = entry->d_type;
      struct stat info {};
      if (type == DT_UNKNOWN &&  // some file systems do not say
          fstatat(dirfd(directory.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0) {
        type = IFTODT(info.st_mode);
      }
      const std::string name = entry->d_name;
      if (name != "." && name != "..") {
        entries.push_back({name, type == DT_DIR, type == DT_REG, type == DT_LNK});
      }
      errno = 0;
    }
    if (errno != 0) return PathError(errno, "list", path);
    std::sort(entries.begin(), entries.end(),
              [](const DirectoryEntry& a, const DirectoryEntry& b) { return a.name < b.name; });
    return entries;
  }

  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    struct stat info {};
    if (lstat(path.c_str(), &info) != 0) return PathError(errno, "stat", path);
    FileInfo result;
    result.is_symlink = S_ISLNK(info.st_mode);
    if (result.is_symlink && stat(path.c_str(), &info) != 0) return PathError(errno, "stat", path);
    result.bytes = info.st_size;
    result.is_directory = S_ISDIR(info.st_mode);
    result.is_regular = S_ISREG(info.st_mode);
    result.modified = absl::TimeFromTimespec(info.st_mtim);
    return result;
  }

  absl::StatusOr<std::string> RealPath(const std::string& path) override {
    std::unique_ptr<char, decltype(&free)> real(realpath(path.c_str(), nullptr), &free);
    if (real == nullptr) return PathError(errno, "resolve", path);
    return std::string(real.get());
  }

  absl::Status MakeDirectory(const std::string& path) override {
    if (mkdir(path.c_str(), 0777) != 0) return PathError(errno, "make directory", path);
    return absl::OkStatus();
  }

  absl::Status MakeDirectories(const std::string& path) override {
    for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
      const std::string prefix = path.substr(0, slash);
      if (mkdir(prefix.c_str(), 0777) != 0) {
        const int error = errno;  // EEXIST may hide a file; EROFS and EACCES may hide a directory
        struct stat info {};
        const bool there = stat(prefix.c_str(), &info) == 0;
        if (!there || !S_ISDIR(info.st_mode)) return PathError(error, "make directory", prefix);
      }
      if (slash == std::string::npos) return absl::OkStatus();
    }
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (rename(from.c_str(), to.c_str()) != 0) {
      return ErrnoStatus(errno, absl::StrCat("rename '", from, "' to '", to, "'"));
    }
    return absl::OkStatus();
  }

  absl::Status Remove(const std::string& path) override {
    if (remove(path.c_str()) != 0) return PathError(errno, "remove", path);
    return absl::OkStatus();
  }

  absl::Status SyncDirectory(const std::string& path) override {
    UniqueFd fd(Retry([&] { return open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
    if (!fd.valid()) return PathError(errno, "open directory", path);
    if (Retry([&] { return fsync(fd.get()); }) != 0) {
      return PathError(errno, "sync directory", path);
    }
    return absl::OkStatus();
  }
};

// Appends `path` and all below it, parents first.
absl::Status CollectTree(FileSystem& fs, const std::string& path, int depth, int64_t entries_max,
                         std::vector<std::string>* entries) {
  constexpr int kDeepest = 16;
  entries->push_back(path);
  if (static_cast<int64_t>(entries->size()) > entries_max || depth > kDeepest) {
    return absl::ResourceExhaustedError(absl::StrCat("remove tree: '", path,
                                                     "' is past the limit of ", entries_max,
                                                     " entries or depth ", kDeepest));
  }
  const auto info = fs.Stat(path);
  if (absl::IsNotFound(info.status())) return absl::OkStatus();  // a dangling symlink
  if (!info.ok()) return info.status();
  if (!info->is_directory || info->is_symlink) return absl::OkStatus();
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(path));
  for (const std::string& name : names) {
    VITSCALE_RETURN_IF_ERROR(
        CollectTree(fs, JoinPath(path, name), depth + 1, entries_max, entries));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> FileSystem::Exists(const std::string& path) {
  const auto info = Stat(path);
  if (info.ok()) return true;
  if (absl::IsNotFound(info.status())) return false;
  return info.status();
}

absl::StatusOr<std::vector<DirectoryEntry>> FileSystem::ListEntries(const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> names, List(path));
  std::vector<DirectoryEntry> entries;
  for (const std::string& name : names) {
    const auto info = Stat(JoinPath(path, name));
    if (!info.ok() && !absl::IsNotFound(info.status())) return info.status();
    const bool dangling = !info.ok();
    const bool link = dangling || info->is_symlink;
    entries.push_back({name, !link && info->is_directory, !link && info->is_regular, link});
  }
  return entries;
}

FileSystem& PosixFileSystem() {
  static RealFileSystem* fs = new RealFileSystem;
  return *fs;
}

absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path, absl::string_view bytes) {
  const std::string temporary = absl::StrCat(path, ".tmp");
  const absl::Status removed = fs.Remove(temporary);
  if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
  const absl::Status written = [&]() -> absl::Status {
    VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.CreateExclusive(temporary));
    VITSCALE_RETURN_IF_ERROR(file->Append(bytes));
    VITSCALE_RETURN_IF_ERROR(file->Sync());
    VITSCALE_RETURN_IF_ERROR(file->Close());
    return fs.Rename(temporary, path);
  }();
  if (!written.ok()) {
    (void)fs.Remove(temporary);  // the first error is the one worth telling
    return written;
  }
  return fs.SyncDirectory(DirectoryName(path));
}

absl::Status RemoveTree(FileSystem& fs, const std::string& path, int64_t entries_max) {
  std::vector<std::string> entries;
  VITSCALE_RETURN_IF_ERROR(CollectTree(fs, path, 0, entries_max, &entries));
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    const absl::Status removed = fs.Remove(*entry);
    if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
  }
  return absl::OkStatus();
}

TemporaryDirectory::TemporaryDirectory() {
  const char* parent = std::getenv("TMPDIR");
  path_ = JoinPath(parent == nullptr || parent[0] == '\0' ? "/tmp" : parent, "vitscale-XXXXXX");
  VITSCALE_CHECK(mkdtemp(path_.data()) != nullptr) << "cannot make '" << path_ << "'";
}

TemporaryDirectory::~TemporaryDirectory() { (void)RemoveTree(PosixFileSystem(), path_); }

}  // namespace vitscale
