#include "worker/data/folder_source.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/data/folder_index.h"
#include "worker/data/image/decode.h"

namespace vitscale {
namespace {

constexpr size_t kBytesKept = size_t{4} << 20;  // of a file, by a thread, between images

absl::Status ReadWhole(FileSystem& fs, const std::string& path, std::string* bytes) {
  VITSCALE_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.Open(path));
  if (file->size() > kImageFileBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the file has ", file->size(), " bytes, want at most ", kImageFileBytesMax));
  }
  bytes->resize(file->size());
  return file->ReadAt(0, absl::MakeSpan(bytes->data(), bytes->size()));
}

// An image that is too large or of a kind that is not read is as lost as a broken one; what the
// file system says is left as it is.
absl::Status AsDataLoss(absl::Status status) {
  const bool of_image = absl::IsResourceExhausted(status) || absl::IsUnimplemented(status);
  return of_image ? absl::DataLossError(status.message()) : status;
}

class FolderImages : public RawImages {
 public:
  FolderImages(FileSystem& fs, std::string root, FolderIndex index, int channels)
      : fs_(fs), root_(std::move(root)), index_(std::move(index)), channels_(channels) {}
  int64_t size() const override { return index_.size(); }
  int channels() const override { return channels_; }
  int classes_seen() const override { return static_cast<int>(index_.class_names().size()); }
  int32_t label(int64_t index) const override { return index_.label(index); }
  const std::vector<std::string>& class_names() const override { return index_.class_names(); }
  uint64_t fingerprint() const override { return index_.fingerprint(); }
  std::string NameOf(int64_t index) const override {
    return absl::StrCat("image '", index_.PathOf(index), "'");
  }

  absl::StatusOr<ImageView> Decode(int64_t index, Image* buffer) const override {
    thread_local std::string bytes;
    absl::Status status = ReadWhole(fs_, index_.PathOf(index), &bytes);
    if (status.ok()) status = DecodeImage(bytes, channels_, buffer);
    if (bytes.capacity() > kBytesKept) std::string().swap(bytes);
    if (!status.ok()) return Annotate(AsDataLoss(std::move(status)), NameOf(index));
    return buffer->view();
  }
  std::string description() const override {
    return absl::StrCat("folder '", root_, "': ", size(), " images, ", classes_seen(), " classes");
  }

 private:
  FileSystem& fs_;
  const std::string root_;
  const FolderIndex index_;
  const int channels_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RawImages>> OpenFolder(FileSystem& fs,
                                                      const std::vector<std::string>& roots,
                                                      const DataSourceConfig& config,
                                                      const SourceRequest& request) {
  const auto resolved = ResolveBelow(fs, roots, config.path, MustExist::kYes);
  if (!resolved.ok()) return Annotate(resolved.status(), "path");
  const std::string& root = *resolved;
  VITSCALE_ASSIGN_OR_RETURN(FolderIndex index,
                            FolderIndex::Scan(fs, roots, root, request.classes, config.take));
  auto images =
      std::make_unique<FolderImages>(fs, root, std::move(index), request.channels == 1 ? 1 : 3);
  VITSCALE_LOG(INFO) << images->description();
  return images;
}

}  // namespace vitscale
