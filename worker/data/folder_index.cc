#include "worker/data/folder_index.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/data/image/decode.h"

namespace vitscale {
namespace {

constexpr int kDepthMax = 32;
constexpr int64_t kProgressEvery = 100'000;

bool NamesImage(absl::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == absl::string_view::npos) return false;
  const std::string ending = absl::AsciiStrToLower(name.substr(dot + 1));
  static constexpr absl::string_view kEndings[] = {"jpg", "jpeg", "jpe", "jfif", "png", "webp"};
  return std::find(std::begin(kEndings), std::end(kEndings), ending) != std::end(kEndings);
}

absl::StatusOr<bool> IsImage(FileSystem& fs, absl::string_view name, const std::string& path) {
  if (NamesImage(name)) return true;
  VITSCALE_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.Open(path));
  std::string start(std::min<int64_t>(file->size(), kSniffBytes), '\0');
  VITSCALE_RETURN_IF_ERROR(file->ReadAt(0, absl::MakeSpan(start.data(), start.size())));
  return Sniff(start) != ImageFormat::kUnknown;
}

}  // namespace

class FolderIndex::Scanner {
 public:
  Scanner(FileSystem& fs, const std::vector<std::string>& roots, FolderIndex* index)
      : fs_(fs), roots_(roots), index_(*index) {}

  absl::Status ScanRoot(const std::string& root, int classes_max) {
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs_.ListEntries(root));
    std::vector<std::string> classes;  // paths
    for (const DirectoryEntry& listed : entries) {
      if (listed.name[0] == '.') continue;
      VITSCALE_ASSIGN_OR_RETURN(const Entry entry, Follow(root, listed));
      if (entry.is_directory) {
        classes.push_back(entry.path);
        index_.class_names_.push_back(listed.name);
      } else if (NamesImage(listed.name)) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", entry.path,
                         "' lies beside the class folders, want every image in the "
                         "folder of its class"));
      }
    }
    if (classes.empty()) {
      return absl::InvalidArgumentError("holds no folders, want a folder for each class");
    }
    if (static_cast<int64_t>(classes.size()) > classes_max) {
      return absl::InvalidArgumentError(absl::StrCat("holds ", classes.size(),
                                                     " class folders, want at most ", classes_max,
                                                     ", the number of classes of the model"));
    }
    above_.push_back(root);
    for (size_t i = 0; i < classes.size(); ++i) {
      VITSCALE_RETURN_IF_ERROR(ScanClass(classes[i], static_cast<int32_t>(i)));
    }
    return absl::OkStatus();
  }

 private:
  struct Entry {
    std::string path;  // real if it was a symlink
    bool is_directory = false, is_regular = false;
  };

  absl::StatusOr<Entry> Follow(const std::string& directory, const DirectoryEntry& listed) const {
    Entry entry{JoinPath(directory, listed.name), listed.is_directory, listed.is_regular};
    if (!listed.is_symlink) return entry;
    const std::string link = entry.path;
    auto real = ResolveBelow(fs_, roots_, link, MustExist::kYes);
    if (!real.ok()) return Annotate(real.status(), absl::StrCat("symlink '", link, "'"));
    entry.path = *std::move(real);
    VITSCALE_ASSIGN_OR_RETURN(const FileInfo info, fs_.Stat(entry.path));
    entry.is_directory = info.is_directory;
    entry.is_regular = info.is_regular;
    return entry;
  }

  absl::Status ScanClass(const std::string& path, int32_t label) {
    const int64_t before = index_.size();
    VITSCALE_RETURN_IF_ERROR(ScanDirectory(path, label));
    if (index_.size() == before) {
      VITSCALE_LOG(WARNING) << "class folder '" << path << "' holds no images";
    }
    return absl::OkStatus();
  }

  absl::Status ScanDirectory(const std::string& path, int32_t label) {
    if (std::find(above_.begin(), above_.end(), path) != above_.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("folder '", path, "' contains itself by a symlink"));
    }
    if (above_.size() > kDepthMax) {
      return absl::FailedPreconditionError(
          absl::StrCat("folder '", path, "' is more than ", kDepthMax, " levels deep"));
    }
    above_.push_back(path);
    const uint32_t directory = static_cast<uint32_t>(index_.directories_.size());
    index_.directories_.push_back(path);
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs_.ListEntries(path));
    for (const DirectoryEntry& listed : entries) {
      if (listed.name[0] == '.') continue;
      VITSCALE_RETURN_IF_ERROR(ScanEntry(path, directory, listed, label));
    }
    above_.pop_back();
    return absl::OkStatus();
  }

  absl::Status ScanEntry(const std::string& path, uint32_t directory, const DirectoryEntry& listed,
                         int32_t label) {
    VITSCALE_ASSIGN_OR_RETURN(const Entry entry, Follow(path, listed));
    index_.fingerprint_ = CombineHash(CombineHash(index_.fingerprint_, Hash64(listed.name)), label);
    if (entry.is_directory) return ScanDirectory(entry.path, label);
    bool image = false;
    if (entry.is_regular) {
      VITSCALE_ASSIGN_OR_RETURN(image, IsImage(fs_, listed.name, entry.path));
    }
    if (!image) {
      return absl::DataLossError(
          absl::StrCat("'", entry.path,
                       "' is no JPEG, PNG or WebP file, want only those, folders and "
                       "names that begin with \".\" in a class folder"));
    }
    index_.Add(directory, listed.is_symlink ? entry.path : listed.name, label);
    if (index_.size() % kProgressEvery == 0) {
      VITSCALE_LOG(INFO) << index_.size() << " images found, now in '" << path << "'";
    }
    return absl::OkStatus();
  }

  FileSystem& fs_;
  const std::vector<std::string>& roots_;
  FolderIndex& index_;
  std::vector<std::string> above_;  // folders that the scan is in
};

absl::StatusOr<FolderIndex> FolderIndex::Scan(FileSystem& fs, const std::vector<std::string>& roots,
                                              const std::string& root, int classes_max,
                                              int64_t take) {
  FolderIndex index;
  Scanner scanner(fs, roots, &index);
  const std::string noun = absl::StrCat("folder '", root, "'");
  if (absl::Status status = scanner.ScanRoot(root, classes_max); !status.ok()) {
    return Annotate(status, noun);
  }
  if (index.size() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(noun, ": its ", index.class_names_.size(), " class folders hold no images"));
  }
  if (take > 0 && take < index.size()) index.Keep(take);
  return index;
}

void FolderIndex::Add(uint32_t directory, absl::string_view name, int32_t label) {
  files_.push_back({names_.size(), directory, label});
  names_.append(name.data(), name.size());
  names_.push_back('\0');
}

std::string FolderIndex::PathOf(int64_t index) const {
  const File& file = files_[index];
  const char* name = names_.c_str() + file.name;
  return name[0] == '/' ? name : JoinPath(directories_[file.directory], name);
}

void FolderIndex::Keep(int64_t take) {
  std::vector<int64_t> have(class_names_.size()), keep(class_names_.size());
  for (const File& file : files_) ++have[file.label];
  for (bool more = true; take > 0 && more;) {
    more = false;
    for (size_t c = 0; c < have.size() && take > 0; ++c) {
      if (keep[c] == have[c]) continue;
      ++keep[c], --take;
      more = true;
    }
  }
  std::vector<File> kept;
  for (const File& file : files_) {
    if (keep[file.label]-- > 0) kept.push_back(file);
  }
  files_ = std::move(kept);
  fingerprint_ = CombineHash(fingerprint_, files_.size());
}

}  // namespace vitscale
