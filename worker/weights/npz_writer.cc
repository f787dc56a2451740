#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "worker/weights/npy_header.h"
#include "worker/weights/npz_file.h"

namespace vitscale {
namespace {

class ZipWriter : public NpzWriter {
 public:
  explicit ZipWriter(std::unique_ptr<WritableFile> file)
      : file_(std::move(file)), archive_(archive_write_new()) {}

  absl::Status Begin() {
    archive* a = archive_.get();
    if (a == nullptr) return absl::ResourceExhaustedError("zip: no memory");
    if (archive_write_set_format_zip(a) != ARCHIVE_OK ||
        archive_write_zip_set_compression_store(a) != ARCHIVE_OK ||
        archive_write_set_bytes_per_block(a, 1 << 20) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(a, 1) != ARCHIVE_OK ||
        archive_write_open(a, this, nullptr, Write, nullptr) != ARCHIVE_OK) {
      return Error();
    }
    return absl::OkStatus();
  }

  absl::Status Add(absl::string_view name, const Shape& shape,
                   absl::Span<const float> values) override {
    if (static_cast<int64_t>(values.size()) != ElementCount(shape)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' has ", values.size(),
                                                     " values, [", absl::StrJoin(shape, ", "),
                                                     "] wants ", ElementCount(shape)));
    }
    const std::string header = MakeNpyHeader(shape);
    const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(float));
    const std::unique_ptr<archive_entry, FreeEntry> entry(archive_entry_new());
    archive_entry_set_pathname(entry.get(), absl::StrCat(name, ".npy").c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0644);
    archive_entry_set_size(entry.get(), static_cast<int64_t>(header.size()) + bytes);
    if (archive_write_header(archive_.get(), entry.get()) != ARCHIVE_OK) return Error();
    VITSCALE_RETURN_IF_ERROR(Append(header.data(), static_cast<int64_t>(header.size())));
    VITSCALE_RETURN_IF_ERROR(Append(reinterpret_cast<const char*>(values.data()), bytes));
    return archive_write_finish_entry(archive_.get()) == ARCHIVE_OK ? absl::OkStatus() : Error();
  }

  absl::Status Finish() override {
    if (archive_write_close(archive_.get()) != ARCHIVE_OK) return Error();
    VITSCALE_RETURN_IF_ERROR(file_->Sync());
    return file_->Close();
  }

 private:
  absl::Status Append(const char* bytes, int64_t count) {
    constexpr int64_t kPiece = 8 << 20;
    for (int64_t done = 0; done < count;) {
      const la_ssize_t wrote =
          archive_write_data(archive_.get(), bytes + done, std::min(kPiece, count - done));
      if (wrote <= 0) return Error();
      done += wrote;
    }
    return absl::OkStatus();
  }

  static la_ssize_t Write(archive*, void* self, const void* bytes, size_t count) {
    auto* writer = static_cast<ZipWriter*>(self);
    writer->status_ = writer->file_->Append({static_cast<const char*>(bytes), count});
    return writer->status_.ok() ? static_cast<la_ssize_t>(count) : -1;
  }

  absl::Status Error() const {
    if (!status_.ok()) return status_;
    const char* text = archive_error_string(archive_.get());
    return absl::InternalError(absl::StrCat("zip: ", text ? text : "cannot be written"));
  }

  struct FreeEntry {
    void operator()(archive_entry* entry) const { archive_entry_free(entry); }
  };
  struct Free {
    void operator()(archive* a) const { archive_write_free(a); }
  };
  std::unique_ptr<WritableFile> file_;
  absl::Status status_;  // of the last write; before archive_, which writes when it is freed
  std::unique_ptr<archive, Free> archive_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NpzWriter>> NpzWriter::Create(FileSystem& fs,
                                                             const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(auto file, fs.CreateExclusive(path));
  auto writer = std::make_unique<ZipWriter>(std::move(file));
  VITSCALE_RETURN_IF_ERROR(Annotate(writer->Begin(), absl::StrCat("'", path, "'")));
  return writer;
}

}  // namespace vitscale
