#include "worker/checkpoint/tensor_file.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/crc32c.h"
#include "kernels/base/status.h"
#include "worker/checkpoint/tensor_header.h"

namespace vitscale {
namespace {

constexpr int64_t kLengthBytes = 8;

int64_t BytesOf(const NamedTensor& tensor) {
  return ElementCount(tensor.shape) * DTypeBytes(tensor.dtype);
}

absl::Status CheckTensors(const std::vector<NamedTensor>& tensors) {
  std::set<absl::string_view> names;
  for (const NamedTensor& tensor : tensors) {
    if (tensor.name.empty() || absl::StartsWith(tensor.name, "__")) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor name '", tensor.name, "' is empty or begins with \"__\""));
    }
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", tensor.name, "' is given twice"));
    }
    const int64_t wanted = tensor.read ? 0 : BytesOf(tensor);
    if (static_cast<int64_t>(tensor.bytes.size()) != wanted) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor '", tensor.name, "' has ", tensor.bytes.size(), " bytes, ",
          DTypeName(tensor.dtype), " [", absl::StrJoin(tensor.shape, ", "), "] wants ", wanted));
    }
  }
  return absl::OkStatus();
}

// Appends in pieces and keeps count and CRC.
class CheckedWriter {
 public:
  explicit CheckedWriter(WritableFile& file) : file_(file) {}

  absl::Status Append(const void* data, int64_t bytes) {
    const char* at = static_cast<const char*>(data);
    while (bytes > 0) {
      const int64_t piece = std::min(bytes, kTensorChunkBytes);
      summary_.crc32c = ExtendCrc32c(summary_.crc32c, at, piece);
      VITSCALE_RETURN_IF_ERROR(file_.Append(absl::string_view(at, piece)));
      summary_.bytes += piece;
      at += piece;
      bytes -= piece;
    }
    return absl::OkStatus();
  }
  absl::Status Append(const NamedTensor& tensor) {
    if (!tensor.read) {
      return Append(tensor.bytes.data(), static_cast<int64_t>(tensor.bytes.size()));
    }
    const int64_t bytes = BytesOf(tensor);
    for (int64_t done = 0; done < bytes;) {
      scratch_.resize(std::min(bytes - done, kTensorChunkBytes));
      VITSCALE_RETURN_IF_ERROR(tensor.read(done, absl::MakeSpan(scratch_)));
      VITSCALE_RETURN_IF_ERROR(Append(scratch_.data(), static_cast<int64_t>(scratch_.size())));
      done += static_cast<int64_t>(scratch_.size());
    }
    return absl::OkStatus();
  }
  FileSummary summary() const { return summary_; }

 private:
  WritableFile& file_;
  FileSummary summary_;
  std::vector<std::byte> scratch_;
};

// Larger element types first, so that every tensor begins at a multiple of its element size.
std::vector<const NamedTensor*> FileOrder(const std::vector<NamedTensor>& tensors) {
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return DTypeBytes(a->dtype) > DTypeBytes(b->dtype);
  });
  return order;
}

std::string HeaderOf(const std::vector<const NamedTensor*>& order,
                     const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  int64_t offset = 0;
  for (const NamedTensor* tensor : order) {
    const int64_t bytes = BytesOf(*tensor);
    entries.push_back({tensor->name, tensor->dtype, tensor->shape, offset, bytes});
    offset += bytes;
  }
  return MakeTensorHeader(entries, metadata);
}

}  // namespace

absl::StatusOr<FileSummary> WriteTensorFile(FileSystem& fs, const std::string& path,
                                            const std::vector<NamedTensor>& tensors,
                                            const std::map<std::string, std::string>& metadata) {
  VITSCALE_RETURN_IF_ERROR(CheckTensors(tensors));
  const std::vector<const NamedTensor*> order = FileOrder(tensors);
  const std::string header = HeaderOf(order, metadata);
  if (static_cast<int64_t>(header.size()) > kTensorHeaderBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "': the header would have ",
                                                   header.size(), " bytes, at most ",
                                                   kTensorHeaderBytesMax));
  }
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.CreateExclusive(path));
  CheckedWriter writer(*file);
  const uint64_t length = header.size();  // little-endian, as the machine is
  VITSCALE_RETURN_IF_ERROR(writer.Append(&length, kLengthBytes));
  VITSCALE_RETURN_IF_ERROR(writer.Append(header.data(), static_cast<int64_t>(header.size())));
  for (const NamedTensor* tensor : order) VITSCALE_RETURN_IF_ERROR(writer.Append(*tensor));
  VITSCALE_RETURN_IF_ERROR(file->Sync());
  VITSCALE_RETURN_IF_ERROR(file->Close());
  return writer.summary();
}

absl::StatusOr<TensorFileReader> TensorFileReader::Open(FileSystem& fs, const std::string& path) {
  TensorFileReader reader;
  reader.path_ = path;
  VITSCALE_ASSIGN_OR_RETURN(reader.file_, fs.Open(path));
  const int64_t size = reader.file_->size();
  if (size < kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat("'", path, "': ", size, " bytes are no safetensors file"));
  }
  uint64_t length = 0;
  VITSCALE_RETURN_IF_ERROR(
      reader.file_->ReadAt(0, absl::MakeSpan(reinterpret_cast<char*>(&length), kLengthBytes)));
  if (length > static_cast<uint64_t>(std::min(kTensorHeaderBytesMax, size - kLengthBytes))) {
    return absl::DataLossError(absl::StrCat("'", path, "': header of ", length,
                                            " bytes in a file of ", size, ", at most ",
                                            kTensorHeaderBytesMax));
  }
  std::string json(length, '\0');
  VITSCALE_RETURN_IF_ERROR(reader.file_->ReadAt(kLengthBytes, absl::MakeSpan(json)));
  reader.data_begin_ = kLengthBytes + static_cast<int64_t>(length);
  auto header = ParseTensorHeader(json, size - reader.data_begin_);
  if (!header.ok()) return Annotate(header.status(), absl::StrCat("'", path, "'"));
  reader.tensors_ = std::move(header->tensors);
  reader.metadata_ = std::move(header->metadata);
  for (size_t i = 0; i < reader.tensors_.size(); ++i) {
    reader.tensors_[i].offset += reader.data_begin_;
    reader.by_name_[reader.tensors_[i].name] = i;
  }
  return reader;
}

const TensorEntry* TensorFileReader::Find(absl::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

absl::Status TensorFileReader::Read(const TensorEntry& entry, absl::Span<std::byte> to) const {
  VITSCALE_CHECK(static_cast<int64_t>(to.size()) == entry.bytes) << entry.name;
  return file_->ReadAt(entry.offset, absl::MakeSpan(reinterpret_cast<char*>(to.data()), to.size()));
}

absl::StatusOr<uint32_t> TensorFileReader::ReadWhole(
    const absl::flat_hash_map<std::string, TensorDestination>& destinations) const {
  uint32_t crc = 0;
  std::vector<std::byte> scratch;
  // Reads [offset, offset + bytes) in pieces: to memory where that is given, else by way of
  // scratch.
  const auto read = [&](int64_t offset, int64_t bytes,
                        const TensorDestination& destination) -> absl::Status {
    std::byte* const to = destination.to.data();
    for (int64_t done = 0; done < bytes;) {
      const int64_t piece = std::min(bytes - done, kTensorChunkBytes);
      if (to == nullptr && static_cast<int64_t>(scratch.size()) < piece) scratch.resize(piece);
      std::byte* at = to == nullptr ? scratch.data() : to + done;
      VITSCALE_RETURN_IF_ERROR(
          file_->ReadAt(offset + done, absl::MakeSpan(reinterpret_cast<char*>(at), piece)));
      crc = ExtendCrc32c(crc, at, piece);
      if (destination.take)
        VITSCALE_RETURN_IF_ERROR(destination.take(done, absl::MakeConstSpan(at, piece)));
      done += piece;
    }
    return absl::OkStatus();
  };
  VITSCALE_RETURN_IF_ERROR(read(0, data_begin_, {}));
  for (const TensorEntry& entry : tensors_) {
    const auto found = destinations.find(entry.name);
    if (found == destinations.end()) {
      VITSCALE_RETURN_IF_ERROR(read(entry.offset, entry.bytes, {}));
      continue;
    }
    VITSCALE_CHECK(found->second.take ||
                   static_cast<int64_t>(found->second.to.size()) == entry.bytes)
        << entry.name;
    VITSCALE_RETURN_IF_ERROR(read(entry.offset, entry.bytes, found->second));
  }
  return crc;
}

}  // namespace vitscale
