#include "kernels/cuda/machine_file.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/crc32c.h"
#include "kernels/base/defaults.h"
#include "kernels/base/files.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"
#include "kernels/base/unique_fd.h"

namespace vitscale::cuda {
namespace {

constexpr int64_t kFileBytesMax = int64_t{16} << 20;

std::string Checksum(absl::string_view line) {
  return absl::StrCat(absl::Hex(Crc32c(line), absl::kZeroPad8));
}

// Held until the descriptor is closed.
absl::StatusOr<UniqueFd> LockFile(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  while (file.valid() && flock(file.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, absl::StrCat("lock '", path, "'"));
  }
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("open '", path, "'"));
  return file;
}

}  // namespace

std::string MachineFilePath(absl::string_view folder, absl::string_view machine) {
  return absl::StrCat(DefaultStateDirectory(), "/", folder, "/", absl::Hex(Hash64(machine)),
                      ".txt");
}

absl::StatusOr<std::vector<std::string>> ReadMachineFile(const std::string& path,
                                                         absl::string_view head) {
  const absl::StatusOr<std::string> text = PosixFileSystem().ReadFile(path, kFileBytesMax);
  if (absl::IsNotFound(text.status())) return std::vector<std::string>();
  VITSCALE_RETURN_IF_ERROR(text.status());
  const std::vector<absl::string_view> read = absl::StrSplit(*text, '\n');
  std::vector<std::string> lines;
  if (read.front() != head) return lines;
  for (const absl::string_view line : read) {
    const size_t end = line.rfind(' ');
    if (end == line.npos || line.substr(end + 1) != Checksum(line.substr(0, end))) continue;
    lines.emplace_back(line.substr(0, end));
  }
  return lines;
}

absl::Status UpdateMachineFile(
    const std::string& path, absl::string_view head,
    const std::function<std::vector<std::string>(const std::vector<std::string>& lines)>& merged) {
  FileSystem& fs = PosixFileSystem();
  VITSCALE_RETURN_IF_ERROR(fs.MakeDirectories(path.substr(0, path.rfind('/'))));
  VITSCALE_ASSIGN_OR_RETURN(const UniqueFd lock, LockFile(path + ".lock"));
  const absl::StatusOr<std::vector<std::string>> before = ReadMachineFile(path, head);
  std::string text = absl::StrCat(head, "\n");
  for (const std::string& line : merged(before.ok() ? *before : std::vector<std::string>())) {
    absl::StrAppend(&text, line, " ", Checksum(line), "\n");
  }
  return WriteFileAtomically(fs, path, text);
}

}  // namespace vitscale::cuda
