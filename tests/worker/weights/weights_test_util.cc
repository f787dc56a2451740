#include "tests/worker/weights/weights_test_util.h"

#include <archive.h>
#include <archive_entry.h>

#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/base/philox.h"
#include "kernels/base/status.h"
#include "worker/checkpoint/tensor_file.h"
#include "worker/weights/npz_file.h"

namespace vitscale {

ModelConfig TestModel(PoolKind pool) {
  ModelConfig model;
  model.SetShape({.patch = 4, .width = 16, .depth = 2, .heads = 2, .mlp_width = 24});
  model.image_size = 12;
  model.classes = 5;
  model.pool = pool;
  return model;
}

Weights TestWeights(const ModelConfig& model, uint64_t seed) {
  Weights weights(model);
  Draws draws(seed, DrawPurpose::kTest, 0, 0);
  for (const Parameter& p : weights.table.parameters()) {
    for (float& value : weights.Of(p)) value = static_cast<float>(draws.Normal());
    weights.Of(p)[0] = -0.0f;
    weights.Of(p)[1] = 1e-42f;  // denormal
  }
  return weights;
}

std::vector<FileTensor> TensorsOf(const Weights& weights, const std::string& format,
                                  bool without_head) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/weights";
  ExportOptions options;
  options.without_head = without_head;
  const absl::Status status =
      ExportWeights(PosixFileSystem(), path, weights, *SpellingByName(format).value(), options);
  EXPECT_TRUE(status.ok()) << status;
  const auto file = OpenWeightFile(PosixFileSystem(), path).value();
  std::vector<FileTensor> tensors;
  for (const WeightTensor& t : file->tensors()) tensors.push_back({t.name, t.shape, {}});
  const absl::Status read = file->Read(
      std::vector<bool>(tensors.size(), true),
      [&](size_t i, absl::Span<const float> v) { tensors[i].values.assign(v.begin(), v.end()); },
      nullptr);
  EXPECT_TRUE(read.ok()) << read;
  return tensors;
}

void WriteFile(const std::string& path, const std::vector<FileTensor>& tensors, bool npz) {
  if (npz) {
    auto writer = NpzWriter::Create(PosixFileSystem(), path).value();
    for (const FileTensor& t : tensors) {
      const absl::Status added = writer->Add(t.name, t.shape, t.values);
      EXPECT_TRUE(added.ok()) << added;
    }
    EXPECT_TRUE(writer->Finish().ok());
    return;
  }
  std::vector<NamedTensor> named;
  for (const FileTensor& t : tensors) {
    named.push_back({t.name,
                     DType::kF32,
                     t.shape,
                     {reinterpret_cast<const std::byte*>(t.values.data()), t.values.size() * 4}});
  }
  const auto written = WriteTensorFile(PosixFileSystem(), path, named, {});
  EXPECT_TRUE(written.ok()) << written.status();
}

namespace {

// A zip in memory.
class ZipInMemory {
 public:
  ZipInMemory(size_t bytes_max, ZipMethod method) : zip_(bytes_max, '\0') {
    archive_write_set_format_zip(archive_);
    method == ZipMethod::kDeflated ? archive_write_zip_set_compression_deflate(archive_)
                                   : archive_write_zip_set_compression_store(archive_);
    archive_write_set_bytes_in_last_block(archive_, 1);
    archive_write_open_memory(archive_, zip_.data(), zip_.size(), &used_);
  }
  void Begin(const std::string& name, int64_t bytes) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, bytes);
    archive_write_header(archive_, entry);
    archive_entry_free(entry);
  }
  void Append(absl::string_view bytes) { archive_write_data(archive_, bytes.data(), bytes.size()); }
  std::string Finish() {
    archive_write_close(archive_);
    archive_write_free(archive_);
    zip_.resize(used_);
    return std::move(zip_);
  }

 private:
  std::string zip_;
  size_t used_ = 0;
  archive* archive_ = archive_write_new();
};

}  // namespace

std::string MakeZip(const std::vector<std::pair<std::string, std::string>>& entries,
                    ZipMethod method) {
  size_t most = 1 << 16;
  for (const auto& [name, content] : entries) most += content.size() + 2 * name.size() + 1024;
  ZipInMemory zip(most, method);
  for (const auto& [name, content] : entries) {
    zip.Begin(name, static_cast<int64_t>(content.size()));
    zip.Append(content);
  }
  return zip.Finish();
}

std::string MakeZipBomb(const std::string& name, const std::string& content, int64_t zeros) {
  ZipInMemory zip(1 << 21, ZipMethod::kDeflated);
  zip.Begin(name, static_cast<int64_t>(content.size()) + zeros);
  zip.Append(content);
  const std::string piece(1 << 20, '\0');
  for (int64_t done = 0; done < zeros; done += static_cast<int64_t>(piece.size())) {
    zip.Append(piece);
  }
  return zip.Finish();
}

std::string MakeNpy(const std::string& dictionary, const std::string& data, int version) {
  const std::string text = dictionary + "\n";
  std::string npy =
      absl::StrCat("\x93NUMPY", std::string(1, static_cast<char>(version)), std::string(1, '\0'));
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) {
    npy.push_back(static_cast<char>((text.size() >> (8 * i)) & 0xff));
  }
  return absl::StrCat(npy, text, data);
}

std::string WeightsTest::Write(const std::string& name, absl::string_view bytes) const {
  std::ofstream file(Path(name), std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(file.good());
  return Path(name);
}

std::string WeightsTest::Read(const std::string& path) const {
  return PosixFileSystem().ReadFile(path, int64_t{1} << 30).value();
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace vitscale
