#include "worker/checkpoint/tensor_file.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/base/crc32c.h"
#include "kernels/base/path.h"
#include "tests/fault/fault_file.h"
#include "tests/status_matchers.h"
#include "worker/checkpoint/tensor_header.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::Span<const std::byte> BytesOf(const std::vector<float>& values) {
  return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(values.data()), values.size() * 4);
}

// A file with the given header text and data.
std::string FileOf(const std::string& json, const std::string& data) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(json.size() >> (8 * i));
  return bytes + json + data;
}

absl::StatusOr<TensorFileReader> OpenBytes(FileSystem& fs, const std::string& bytes) {
  (void)fs.Remove("/f");
  auto file = fs.CreateExclusive("/f");
  EXPECT_THAT((*file)->Append(bytes), IsOk());
  return TensorFileReader::Open(fs, "/f");
}

TEST(TensorFileTest, WhatIsWrittenIsRead) {
  FaultFileSystem fs;
  const std::vector<float> a = {1, 2, 3, 4, 5, 6}, b = {7};
  const std::vector<uint16_t> half = {8, 9};
  const std::vector<NamedTensor> tensors = {
      {"momentum/x",
       DType::kBf16,
       {2},
       absl::MakeConstSpan(reinterpret_cast<const std::byte*>(half.data()), 4)},
      {"params/x \"quoted\" ü", DType::kF32, {2, 3}, BytesOf(a)},
      {"scalar", DType::kF32, {}, BytesOf(b)},
      {"empty", DType::kF32, {0, 3}, {}}};
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FileSummary summary,
                                WriteTensorFile(fs, "/f", tensors, {{"format", "vitscale"}}));
  const std::string bytes = *fs.ReadFile("/f", 1 << 20);
  EXPECT_EQ(summary.bytes, static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(summary.crc32c, Crc32c(bytes));

  VITSCALE_ASSERT_OK_AND_ASSIGN(const TensorFileReader reader, TensorFileReader::Open(fs, "/f"));
  EXPECT_EQ(reader.metadata().at("format"), "vitscale");
  EXPECT_EQ(reader.tensors().size(), 4u);
  for (const TensorEntry& entry : reader.tensors())
    EXPECT_EQ(entry.offset % DTypeBytes(entry.dtype), 0);
  const TensorEntry* entry = reader.Find("params/x \"quoted\" ü");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->shape, (Shape{2, 3}));
  std::vector<float> back(6);
  EXPECT_THAT(reader.Read(*entry, absl::MakeSpan(reinterpret_cast<std::byte*>(back.data()), 24)),
              IsOk());
  EXPECT_EQ(back, a);
  EXPECT_EQ(reader.Find("none"), nullptr);
}

TEST(TensorFileTest, ReadWholeGivesTensorsAndTheChecksumOfTheFile) {
  FaultFileSystem fs;
  std::vector<float> large(3 * (1 << 20)), small(5, 1.0f);  // 12 MiB: more than one chunk
  std::iota(large.begin(), large.end(), 0.0f);
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const FileSummary summary,
      WriteTensorFile(fs, "/f",
                      {{"large", DType::kF32, {3, 1 << 20}, BytesOf(large)},
                       {"small", DType::kF32, {5}, BytesOf(small)}},
                      {}));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const TensorFileReader reader, TensorFileReader::Open(fs, "/f"));
  std::vector<float> back(large.size());
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const uint32_t crc,
      reader.ReadWhole(
          {{"large", TensorDestination{absl::MakeSpan(reinterpret_cast<std::byte*>(back.data()),
                                                      back.size() * 4)}}}));
  EXPECT_EQ(crc, summary.crc32c);
  EXPECT_EQ(back, large);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const uint32_t again, reader.ReadWhole({}));
  EXPECT_EQ(again, summary.crc32c);
  fs.FlipBit("/f", reader.file_bytes() - 1, 3);
  EXPECT_NE(*reader.ReadWhole({}), summary.crc32c);
}

// Where the host cannot address a tensor: the same file, made and read in pieces.
TEST(TensorFileTest, ATensorGivenAndTakenInPiecesIsTheSameFile) {
  FaultFileSystem fs;
  std::vector<float> large(3 * (1 << 20));  // 12 MiB: two pieces
  std::iota(large.begin(), large.end(), 0.0f);
  const absl::Span<const std::byte> bytes = BytesOf(large);
  NamedTensor whole{"large", DType::kF32, {3, 1 << 20}, bytes}, given = whole;
  std::vector<int64_t> offsets;
  given.bytes = {};
  given.read = [&](int64_t offset, absl::Span<std::byte> to) {
    offsets.push_back(offset);
    std::copy_n(bytes.begin() + offset, to.size(), to.begin());
    return absl::OkStatus();
  };
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FileSummary a, WriteTensorFile(fs, "/a", {whole}, {}));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FileSummary b, WriteTensorFile(fs, "/b", {given}, {}));
  EXPECT_EQ(a, b);
  EXPECT_THAT(offsets, ElementsAre(0, kTensorChunkBytes));

  std::vector<float> back(large.size());
  TensorDestination taken;
  taken.take = [&](int64_t offset, absl::Span<const std::byte> piece) {
    std::memcpy(reinterpret_cast<std::byte*>(back.data()) + offset, piece.data(), piece.size());
    return absl::OkStatus();
  };
  VITSCALE_ASSERT_OK_AND_ASSIGN(const TensorFileReader reader, TensorFileReader::Open(fs, "/b"));
  EXPECT_EQ(*reader.ReadWhole({{"large", taken}}), b.crc32c);
  EXPECT_EQ(back, large);
}

TEST(TensorFileTest, AnErrorOfWhoGivesOrTakesPiecesKeepsItsCode) {
  FaultFileSystem fs;
  const std::vector<float> a = {1, 2};
  NamedTensor given{"a", DType::kF32, {2}, {}};
  given.read = [](int64_t, absl::Span<std::byte>) { return absl::AbortedError("device: gone"); };
  EXPECT_THAT(WriteTensorFile(fs, "/a", {given}, {}), StatusIs(absl::StatusCode::kAborted));
  ASSERT_THAT(WriteTensorFile(fs, "/b", {{"a", DType::kF32, {2}, BytesOf(a)}}, {}), IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const TensorFileReader reader, TensorFileReader::Open(fs, "/b"));
  TensorDestination taken;
  taken.take = [](int64_t, absl::Span<const std::byte>) {
    return absl::AbortedError("device: gone");
  };
  EXPECT_THAT(reader.ReadWhole({{"a", taken}}),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("device: gone")));
}

TEST(TensorFileTest, RefusesToWriteWhatCouldNotBeRead) {
  FaultFileSystem fs;
  const std::vector<float> a = {1, 2};
  const auto write = [&](std::vector<NamedTensor> tensors) {
    return WriteTensorFile(fs, "/f", tensors, {}).status();
  };
  EXPECT_THAT(write({{"a", DType::kF32, {3}, BytesOf(a)}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("has 8 bytes")));
  EXPECT_THAT(write({{"a", DType::kF32, {2}, BytesOf(a)}, {"a", DType::kF32, {2}, BytesOf(a)}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
  EXPECT_THAT(write({{"", DType::kF32, {2}, BytesOf(a)}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(write({{"__metadata__", DType::kF32, {2}, BytesOf(a)}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(*fs.Exists("/f"));
}

TEST(TensorFileTest, EveryTruncationAndEveryAdditionIsAnError) {
  FaultFileSystem fs;
  const std::vector<float> a = {1, 2};
  ASSERT_THAT(WriteTensorFile(fs, "/good", {{"a", DType::kF32, {2}, BytesOf(a)}}, {}), IsOk());
  const std::string good = *fs.ReadFile("/good", 1 << 20);
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_THAT(OpenBytes(fs, good.substr(0, length)), StatusIs(absl::StatusCode::kDataLoss))
        << length;
  }
  EXPECT_THAT(OpenBytes(fs, good + "x"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("end at 8")));
  EXPECT_THAT(OpenBytes(fs, good), IsOk());
}

struct BadHeader {
  const char* json;
  const char* message;
};

class BadHeaderTest : public testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaderTest, IsRefusedWithItsReason) {
  EXPECT_THAT(ParseTensorHeader(GetParam().json, 8),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadHeaderTest,
    testing::Values(
        BadHeader{"", "no JSON object"}, BadHeader{"[]", "no JSON object"},
        BadHeader{"{", "no JSON object"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} x)", "no JSON object"},
        BadHeader{R"({})", "tensors end at 0"}, BadHeader{R"({"a":1})", "want exactly dtype"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})",
                  "want exactly dtype"},
        BadHeader{R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", "dtype is F31"},
        BadHeader{R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", "dtype is missing"},
        BadHeader{R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", "shape is no list"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "no count"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", "no count"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})",
                  "no count"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})",
                  "overflows"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})",
                  "at most 8"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", "no pair"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "no pair"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", "span 8 bytes"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", "gap"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"U8","shape":[6],"data_offsets":[2,8]}})",
                  "overlap"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})",
                  "tensors end at 12"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                  R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                  "stands twice"},
        BadHeader{R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                  "stands twice"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[[[[2]]]],"data_offsets":[0,8]}})", "nested"},
        BadHeader{R"({"__metadata__":{"a":1}})", "__metadata__"},
        BadHeader{R"({"__metadata__":[]})", "__metadata__"}));

TEST(TensorFileTest, AHugeHeaderLengthAllocatesNothing) {
  FaultFileSystem fs;
  EXPECT_THAT(OpenBytes(fs, std::string(8, '\xff')),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("header of")));
  EXPECT_THAT(OpenBytes(fs, std::string("\0\0\0\x05\0\0\0\0xxxx", 12)),
              StatusIs(absl::StatusCode::kDataLoss));
}

TEST(TensorFileTest, HeadersThatOthersWriteAreRead) {
  FaultFileSystem fs;
  const std::string json = R"({"b":{"shape":[1],"data_offsets":[4,8],"dtype":"I32"},)"
                           R"("a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}   )";
  VITSCALE_ASSERT_OK_AND_ASSIGN(const TensorFileReader reader,
                                OpenBytes(fs, FileOf(json, "12345678")));
  EXPECT_EQ(reader.tensors()[0].name, "a");
  EXPECT_EQ(reader.tensors()[1].offset, static_cast<int64_t>(8 + json.size() + 4));
}

TEST(TensorFileTest, ASafetensorsFileOfEveryDTypeSurvives) {
  FaultFileSystem fs;
  std::vector<NamedTensor> tensors;
  const std::vector<float> data(4, 1.0f);
  for (DType dtype :
       {DType::kU8, DType::kBf16, DType::kF32, DType::kF64, DType::kI32, DType::kI64}) {
    tensors.push_back({DTypeName(dtype), dtype, {16 / DTypeBytes(dtype)}, BytesOf(data)});
  }
  ASSERT_THAT(WriteTensorFile(fs, "/f", tensors, {}), IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const TensorFileReader reader, TensorFileReader::Open(fs, "/f"));
  for (const NamedTensor& tensor : tensors)
    EXPECT_EQ(reader.Find(tensor.name)->dtype, tensor.dtype);
}

}  // namespace
}  // namespace vitscale
