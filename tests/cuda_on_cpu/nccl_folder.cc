#include "tests/cuda_on_cpu/nccl_folder.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/cuda_on_cpu/fault.h"

namespace vitscale::cuda_on_cpu {
namespace {

namespace fs = std::filesystem;

constexpr char kFolderPrefix[] = "vitscale_nccl_standin.";

// Those of processes that are gone, or of this one when it ends.
void RemoveFolders(bool own) {
  std::error_code error;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(fs::temp_directory_path(), error)) {
    const std::vector<std::string> parts = absl::StrSplit(entry.path().filename().string(), '.');
    int pid = 0;
    if (absl::StrCat(parts[0], ".") != kFolderPrefix || parts.size() < 2 ||
        !absl::SimpleAtoi(parts[1], &pid)) {
      continue;
    }
    const bool gone = kill(pid, 0) != 0 && errno == ESRCH;
    if (gone || (own && pid == getpid())) fs::remove_all(entry.path(), error);
  }
}

}  // namespace

std::string MakeFolder() {
  static const bool once = [] {
    RemoveFolders(/*own=*/false);
    return std::atexit([] { RemoveFolders(/*own=*/true); }) == 0;
  }();
  (void)once;
  static int made = 0;
  const std::string path =
      absl::StrCat(fs::temp_directory_path().string(), "/", kFolderPrefix, getpid(), ".", ++made);
  fs::create_directory(path);
  return path;
}

std::string FileOfRank(const std::string& folder, int rank) {
  return absl::StrCat(folder, "/rank", rank);
}
std::string FileOfInput(const std::string& folder, uint64_t operation, int rank) {
  return absl::StrCat(folder, "/operation", operation, ".rank", rank);
}

bool ReadFile(const std::string& path, std::string& text) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return false;
  std::ostringstream all;
  all << file.rdbuf();
  text = all.str();
  return true;
}

void WriteFile(const std::string& path, const std::string& text) {
  const std::string beside = absl::StrCat(path, ".", getpid(), ".new");
  std::ofstream(beside, std::ios::binary) << text;
  if (std::rename(beside.c_str(), path.c_str()) != 0) {
    Fault(absl::StrCat("the stand-in of NCCL cannot write ", path, ": ", std::strerror(errno)));
  }
}

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}
void RemoveFile(const std::string& path) {
  std::error_code error;
  fs::remove(path, error);
}

}  // namespace vitscale::cuda_on_cpu
