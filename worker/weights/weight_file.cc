#include "worker/weights/weight_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/bf16.h"
#include "kernels/base/status.h"
#include "worker/checkpoint/tensor_file.h"
#include "worker/weights/npz_file.h"

namespace vitscale {
namespace {

class SafetensorsFile : public WeightFile {
 public:
  explicit SafetensorsFile(TensorFileReader reader) : reader_(std::move(reader)) {
    for (const TensorEntry& entry : reader_.tensors()) {
      WeightTensor tensor{entry.name, entry.dtype, entry.shape, ""};
      if (entry.dtype != DType::kF32 && entry.dtype != DType::kBf16) {
        tensor.fault = absl::StrCat("has dtype ", DTypeName(entry.dtype), ", want f32 or bf16");
      }
      tensors_.push_back(std::move(tensor));
    }
  }

  const std::vector<WeightTensor>& tensors() const override { return tensors_; }

  absl::Status Read(const std::vector<bool>& wanted, const Take& take,
                    const Progress& progress) override {
    int64_t total = 0, done = 0;
    for (size_t i = 0; i < wanted.size(); ++i) total += wanted[i] ? reader_.tensors()[i].bytes : 0;
    std::vector<std::byte> bytes;
    std::vector<float> values;
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (!wanted[i]) continue;
      const TensorEntry& entry = reader_.tensors()[i];
      bytes.resize(entry.bytes);
      VITSCALE_RETURN_IF_ERROR(
          Annotate(reader_.Read(entry, absl::MakeSpan(bytes)), absl::StrCat("'", entry.name, "'")));
      values.resize(ElementCount(entry.shape));
      WidenToF32(entry.dtype, bytes, absl::MakeSpan(values));
      take(i, values);
      done += entry.bytes;
      if (progress) progress(done, total);
    }
    return absl::OkStatus();
  }

 private:
  TensorFileReader reader_;
  std::vector<WeightTensor> tensors_;
};

enum class FileKind { kZip, kSafetensors, kNeither };

// A zip begins with a local header; one without entries with the end of its directory. Safetensors
// begin with eight bytes of length and a JSON object.
absl::StatusOr<FileKind> KindOf(FileSystem& fs, const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(const auto file, fs.Open(path));
  char first[9] = {};
  const int64_t size = std::min<int64_t>(file->size(), sizeof(first));
  VITSCALE_RETURN_IF_ERROR(file->ReadAt(0, absl::MakeSpan(first, size)));
  if (std::memcmp(first, "PK\x03\x04", 4) == 0 || std::memcmp(first, "PK\x05\x06", 4) == 0) {
    return FileKind::kZip;
  }
  return first[8] == '{' ? FileKind::kSafetensors : FileKind::kNeither;
}

}  // namespace

void WidenToF32(DType dtype, absl::Span<const std::byte> bytes, absl::Span<float> values) {
  VITSCALE_CHECK(static_cast<int64_t>(bytes.size()) ==
                 static_cast<int64_t>(values.size()) * DTypeBytes(dtype));
  if (values.empty()) return;
  if (dtype == DType::kF32) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return;
  }
  VITSCALE_CHECK(dtype == DType::kBf16) << DTypeName(dtype);
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t value;
    std::memcpy(&value, bytes.data() + 2 * i, sizeof(value));
    values[i] = FromBf16(value);
  }
}

absl::StatusOr<std::unique_ptr<WeightFile>> OpenWeightFile(FileSystem& fs,
                                                           const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(path));
  if (!info.is_regular) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "': is ", info.is_directory ? "a folder" : "no regular file",
                     ", want an .npz or a .safetensors file"));
  }
  VITSCALE_ASSIGN_OR_RETURN(const FileKind kind, KindOf(fs, path));
  if (kind == FileKind::kZip) return OpenNpz(fs, path);
  if (kind == FileKind::kNeither) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "': is neither an .npz nor a .safetensors file"));
  }
  VITSCALE_ASSIGN_OR_RETURN(TensorFileReader reader, TensorFileReader::Open(fs, path));
  return std::make_unique<SafetensorsFile>(std::move(reader));
}

}  // namespace vitscale
