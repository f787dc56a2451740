#include "worker/weights/npz_file.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/weights/npy_header.h"

namespace vitscale {
namespace {

constexpr size_t kEntriesMax = 100000;
constexpr int64_t kInflationMax = 16;                    // data of a zip per byte of it …
constexpr int64_t kInflatedFreely = int64_t{256} << 20;  // … where they are more than this
constexpr char kEnding[] = ".npy";

// One walk over the entries of a zip, in the order of its directory.
class ZipWalk {
 public:
  static absl::StatusOr<std::unique_ptr<ZipWalk>> Begin(const ReadableFile& file) {
    std::unique_ptr<ZipWalk> walk(new ZipWalk(file));
    archive* a = walk->archive_.get();
    if (a == nullptr) return absl::ResourceExhaustedError("zip: no memory");
    archive_read_support_format_zip_seekable(a);
    archive_read_set_read_callback(a, ReadNext);
    archive_read_set_skip_callback(a, Skip);
    archive_read_set_seek_callback(a, Seek);
    archive_read_set_callback_data(a, walk.get());
    if (archive_read_open1(a) != ARCHIVE_OK) return walk->Error("open");
    return walk;
  }

  // False at the end.
  absl::StatusOr<bool> Next() {
    const int result = archive_read_next_header(archive_.get(), &entry_);
    if (result == ARCHIVE_EOF) return false;
    if (result != ARCHIVE_OK && result != ARCHIVE_WARN) return Error("directory");
    if (archive_entry_pathname(entry_) == nullptr) {
      return absl::DataLossError("zip: an entry has no readable name");
    }
    return true;
  }
  std::string name() const { return archive_entry_pathname(entry_); }
  bool is_plain_file() const { return archive_entry_filetype(entry_) == AE_IFREG; }
  int64_t bytes() const {
    return archive_entry_size_is_set(entry_) ? archive_entry_size(entry_) : -1;
  }

  // Up to `bytes.size()` bytes of the entry; fewer only at its end, where the checksum is compared.
  absl::StatusOr<int64_t> Read(absl::Span<char> bytes) {
    int64_t done = 0;
    while (done < static_cast<int64_t>(bytes.size())) {
      const la_ssize_t got =
          archive_read_data(archive_.get(), bytes.data() + done, bytes.size() - done);
      if (got < 0) return Error(absl::StrCat("entry '", name(), "'"));
      if (got == 0) break;
      done += got;
    }
    return done;
  }

 private:
  explicit ZipWalk(const ReadableFile& file)
      : file_(file), buffer_(1 << 20), archive_(archive_read_new()) {}

  absl::Status Error(absl::string_view where) const {
    if (!read_status_.ok()) return read_status_;
    const char* text = archive_error_string(archive_.get());
    return absl::DataLossError(absl::StrCat("zip: ", where, ": ", text ? text : "damaged"));
  }

  static la_ssize_t ReadNext(archive*, void* self, const void** bytes) {
    auto* walk = static_cast<ZipWalk*>(self);
    const int64_t left = walk->file_.size() - walk->at_;
    const int64_t count = std::clamp<int64_t>(left, 0, walk->buffer_.size());
    walk->read_status_ = walk->file_.ReadAt(walk->at_, {walk->buffer_.data(), size_t(count)});
    if (!walk->read_status_.ok()) return -1;
    walk->at_ += count;
    *bytes = walk->buffer_.data();
    return count;
  }
  static la_int64_t Skip(archive*, void* self, la_int64_t count) {
    auto* walk = static_cast<ZipWalk*>(self);
    const int64_t skipped = std::clamp<int64_t>(count, 0, walk->file_.size() - walk->at_);
    walk->at_ += skipped;
    return skipped;
  }
  static la_int64_t Seek(archive*, void* self, la_int64_t offset, int whence) {
    auto* walk = static_cast<ZipWalk*>(self);
    const int64_t base = whence == SEEK_SET   ? 0
                         : whence == SEEK_CUR ? walk->at_
                                              : walk->file_.size();
    if (offset > walk->file_.size() - base || offset < -base) return ARCHIVE_FATAL;
    return walk->at_ = base + offset;
  }

  struct Free {
    void operator()(archive* a) const { archive_read_free(a); }
  };
  const ReadableFile& file_;
  int64_t at_ = 0;
  std::vector<char> buffer_;
  absl::Status read_status_;
  archive_entry* entry_ = nullptr;  // the archive's
  std::unique_ptr<archive, Free> archive_;
};

// The .npy header of the entry at which the walk stands; the walk then stands behind it.
absl::StatusOr<NpyHeader> ReadNpyHeader(ZipWalk& walk) {
  constexpr int64_t kFirst = 12;  // magic, version, the longer length
  std::string bytes(kFirst, '\0');
  VITSCALE_ASSIGN_OR_RETURN(int64_t got, walk.Read(absl::MakeSpan(bytes)));
  if (got < kFirst) return absl::DataLossError("ends within its npy header");
  const bool wide = bytes[6] != 1;
  int64_t length = uint8_t(bytes[8]) + (int64_t{uint8_t(bytes[9])} << 8);
  if (wide) length += (int64_t{uint8_t(bytes[10])} << 16) + (int64_t{uint8_t(bytes[11])} << 24);
  const int64_t end = (wide ? 12 : 10) + length;
  if (length <= kNpyHeaderBytesMax && end > kFirst) {
    bytes.resize(end);
    VITSCALE_ASSIGN_OR_RETURN(got, walk.Read(absl::MakeSpan(bytes).subspan(kFirst)));
    bytes.resize(kFirst + got);
  }
  VITSCALE_ASSIGN_OR_RETURN(NpyHeader header, ParseNpyHeader(bytes));
  if (header.header_bytes < kFirst) return absl::DataLossError("npy header: is too short");
  return header;
}

class NpzFile : public WeightFile {
 public:
  explicit NpzFile(std::unique_ptr<ReadableFile> file) : file_(std::move(file)) {}

  absl::Status ReadHeaders() {
    VITSCALE_ASSIGN_OR_RETURN(const auto walk, ZipWalk::Begin(*file_));
    absl::flat_hash_set<std::string> names;
    for (;;) {
      VITSCALE_ASSIGN_OR_RETURN(const bool there, walk->Next());
      if (!there) return absl::OkStatus();
      const std::string entry = walk->name();
      VITSCALE_RETURN_IF_ERROR(Annotate(AddEntry(*walk), absl::StrCat("'", entry, "'")));
      if (!names.insert(entry).second) {
        return absl::DataLossError(absl::StrCat("'", entry, "' is in the zip twice"));
      }
      if (names.size() > kEntriesMax) {
        return absl::ResourceExhaustedError(
            absl::StrCat("has more than ", kEntriesMax, " entries"));
      }
    }
  }

  const std::vector<WeightTensor>& tensors() const override { return tensors_; }

  absl::Status Read(const std::vector<bool>& wanted, const Take& take,
                    const Progress& progress) override {
    int64_t total = 0, done = 0;
    for (size_t i = 0; i < wanted.size(); ++i) total += wanted[i] ? headers_[i].data_bytes : 0;
    VITSCALE_RETURN_IF_ERROR(CheckInflation(total));
    VITSCALE_ASSIGN_OR_RETURN(const auto walk, ZipWalk::Begin(*file_));
    for (size_t i = 0; i < wanted.size(); ++i) {
      VITSCALE_ASSIGN_OR_RETURN(const bool there, walk->Next());
      if (!there) return absl::DataLossError("changed while it was read");
      if (!wanted[i]) continue;
      VITSCALE_RETURN_IF_ERROR(
          Annotate(ReadOne(*walk, i, take), absl::StrCat("'", tensors_[i].name, "'")));
      done += headers_[i].data_bytes;
      if (progress) progress(done, total);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status AddEntry(ZipWalk& walk) {
    std::string name = walk.name();
    if (!walk.is_plain_file() || !absl::EndsWith(name, kEnding)) {
      return absl::DataLossError("is no .npy file, want an .npz with nothing else in it");
    }
    name.resize(name.size() - (sizeof(kEnding) - 1));
    VITSCALE_ASSIGN_OR_RETURN(NpyHeader header, ReadNpyHeader(walk));
    if (header.fault.empty() && walk.bytes() != header.header_bytes + header.data_bytes) {
      return absl::DataLossError(absl::StrCat("has ", walk.bytes() - header.header_bytes,
                                              " bytes of data, its shape wants ",
                                              header.data_bytes));
    }
    tensors_.push_back({std::move(name), header.dtype, header.shape, header.fault});
    headers_.push_back(std::move(header));
    return absl::OkStatus();
  }

  absl::Status ReadOne(ZipWalk& walk, size_t index, const Take& take) {
    VITSCALE_ASSIGN_OR_RETURN(const NpyHeader header, ReadNpyHeader(walk));
    if (header.data_bytes != headers_[index].data_bytes || header.shape != headers_[index].shape) {
      return absl::DataLossError("changed while it was read");
    }
    std::vector<char> bytes(header.data_bytes);
    VITSCALE_ASSIGN_OR_RETURN(const int64_t got, walk.Read(absl::MakeSpan(bytes)));
    char beyond;
    VITSCALE_ASSIGN_OR_RETURN(const int64_t more,
                              walk.Read({&beyond, 1}));  // compares the checksum
    if (got != header.data_bytes || more != 0) {
      return absl::DataLossError("its data are longer or shorter than the zip says");
    }
    std::vector<float> values(ElementCount(header.shape));
    WidenToF32(header.dtype, {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()},
               absl::MakeSpan(values));
    take(index, values);
    return absl::OkStatus();
  }

  // A zip of a few kilobytes can claim terabytes of zeros.
  absl::Status CheckInflation(int64_t bytes) const {
    if (bytes <= kInflatedFreely || bytes / kInflationMax <= file_->size()) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("a zip of ", file_->size(), " bytes claims ",
                                                     bytes, " bytes of numbers, at most ",
                                                     kInflationMax, " times its size is believed"));
  }

  std::unique_ptr<ReadableFile> file_;
  std::vector<WeightTensor> tensors_;
  std::vector<NpyHeader> headers_;  // one per tensor
};

}  // namespace

absl::StatusOr<std::unique_ptr<WeightFile>> OpenNpz(FileSystem& fs, const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(auto file, fs.Open(path));
  auto npz = std::make_unique<NpzFile>(std::move(file));
  VITSCALE_RETURN_IF_ERROR(Annotate(npz->ReadHeaders(), absl::StrCat("'", path, "'")));
  return npz;
}

}  // namespace vitscale
