#include "worker/checkpoint/checkpoint_folder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/crc32c.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr char kManifestName[] = "manifest.json";

absl::Status CheckContent(FileSystem& fs, const std::string& path, const PartFile& part,
                          const std::function<void(int64_t)>& read) {
  VITSCALE_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(path));
  if (!info.is_regular) return absl::DataLossError("is no regular file");
  if (info.bytes != part.bytes) {
    return absl::DataLossError(
        absl::StrCat("has ", info.bytes, " bytes, the manifest says ", part.bytes));
  }
  VITSCALE_ASSIGN_OR_RETURN(const auto file, fs.Open(path));
  std::vector<char> piece(std::min(part.bytes, kTensorChunkBytes));
  uint32_t crc = 0;
  for (int64_t done = 0; done < part.bytes;) {
    const int64_t count = std::min<int64_t>(part.bytes - done, piece.size());
    VITSCALE_RETURN_IF_ERROR(file->ReadAt(done, {piece.data(), static_cast<size_t>(count)}));
    crc = ExtendCrc32c(crc, piece.data(), count);
    done += count;
    read(count);
  }
  if (crc != part.crc32c) {
    return absl::DataLossError(
        absl::StrFormat("crc32c is %08x, the manifest says %08x", crc, part.crc32c));
  }
  return TensorFileReader::Open(fs, path).status();
}

}  // namespace

absl::StatusOr<CheckpointFolder> FindCheckpointFolder(FileSystem& fs, const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(const std::string real, fs.RealPath(path));
  VITSCALE_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(real));
  if (!info.is_directory) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' is a file, want the folder of a checkpoint"));
  }
  if (const auto name = CheckpointName::Parse(BaseName(real)); name.ok()) {
    const std::string job = DirectoryName(real);
    VITSCALE_ASSIGN_OR_RETURN(CheckpointStore store,
                              CheckpointStore::Open(fs, DirectoryName(job), BaseName(job)));
    return CheckpointFolder{std::move(store), *name};
  }
  auto store = CheckpointStore::Open(fs, DirectoryName(real), BaseName(real));
  if (store.ok()) {
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<CheckpointEntry> usable, store->Usable());
    if (!usable.empty()) return CheckpointFolder{*std::move(store), usable.front().manifest.name};
  }
  return absl::NotFoundError(
      absl::StrCat("'", path,
                   "' is no checkpoint and holds none; want a folder such as "
                   "'<dir>/<job id>/a0001.g0001.step_000001000', or that of a job"));
}

absl::StatusOr<std::vector<TensorEntry>> ListTensors(FileSystem& fs, const std::string& path,
                                                     const CheckpointManifest& manifest) {
  std::vector<TensorEntry> tensors;
  for (const PartFile& part : manifest.files) {
    VITSCALE_ASSIGN_OR_RETURN(const TensorFileReader reader,
                              TensorFileReader::Open(fs, JoinPath(path, part.name)));
    tensors.insert(tensors.end(), reader.tensors().begin(), reader.tensors().end());
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; });
  return tensors;
}

std::vector<FileVerdict> VerifyFiles(FileSystem& fs, const std::string& path,
                                     const CheckpointManifest& manifest,
                                     const std::function<void(int64_t, int64_t)>& progress) {
  const int64_t total = manifest.total_bytes();
  int64_t done = 0;
  std::vector<FileVerdict> verdicts;
  for (const PartFile& part : manifest.files) {
    const absl::Status status =
        CheckContent(fs, JoinPath(path, part.name), part, [&](int64_t bytes) {
          done += bytes;
          if (progress) progress(done, total);
        });
    verdicts.push_back({part.name, part.bytes, status});
  }
  return verdicts;
}

absl::StatusOr<CheckpointManifest> ReadManifestIn(FileSystem& fs, const std::string& path) {
  const std::string file = JoinPath(path, kManifestName);
  VITSCALE_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(file));
  if (!info.is_regular) return absl::DataLossError("manifest: no regular file");
  VITSCALE_ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(file, kManifestBytesMax));
  return ManifestFromJson(text);
}

}  // namespace vitscale
