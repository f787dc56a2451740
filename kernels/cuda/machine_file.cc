#include "kernels/cuda/machine_file.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/defaults.h"
#include "kernels/base/files.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {
namespace {

constexpr int64_t kFileBytesMax = int64_t{16} << 20;

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
  std::vector<std::string> lines = absl::StrSplit(*text, '\n');
  if (lines.front() != head) return std::vector<std::string>();
  lines.erase(lines.begin());
  return lines;
}

absl::Status WriteMachineFile(const std::string& path, absl::string_view head,
                              absl::string_view lines) {
  FileSystem& fs = PosixFileSystem();
  VITSCALE_RETURN_IF_ERROR(fs.MakeDirectories(path.substr(0, path.rfind('/'))));
  return WriteFileAtomically(fs, path, absl::StrCat(head, "\n", lines));
}

}  // namespace vitscale::cuda
