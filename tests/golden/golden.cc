#include "tests/golden/golden.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/base/bf16.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"

namespace vitscale::golden {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kNotComparable = int64_t{1} << 32;

template <typename T>
T Get(const std::vector<std::byte>& bytes, int64_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
  return value;
}

double Decode(const std::vector<std::byte>& bytes, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kU8:
      return Get<uint8_t>(bytes, i);
    case DType::kBf16:
      return FromBf16(Get<uint16_t>(bytes, i));
    case DType::kF32:
      return Get<float>(bytes, i);
    case DType::kF64:
      return Get<double>(bytes, i);
    case DType::kI32:
      return Get<int32_t>(bytes, i);
    case DType::kI64:
      return static_cast<double>(Get<int64_t>(bytes, i));
  }
  return 0;
}

// Sign and magnitude to a line of integers on which neighbours differ by 1.
template <typename Unsigned>
int64_t OnALine(Unsigned bits) {
  constexpr Unsigned kSign = Unsigned{1} << (8 * sizeof(Unsigned) - 1);
  return (bits & kSign) != 0 ? -static_cast<int64_t>(bits & ~kSign) : static_cast<int64_t>(bits);
}

template <typename T>
double RelativeL2Of(absl::Span<const T> actual, absl::Span<const double> truth) {
  if (actual.size() != truth.size()) return kInfinity;
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double difference = static_cast<double>(actual[i]) - truth[i];
    error += difference * difference;
    norm += truth[i] * truth[i];
  }
  if (error == 0) return 0;
  const double relative = std::sqrt(error / norm);
  return std::isnan(relative) ? kInfinity : relative;
}

}  // namespace

std::string GoldenPath(absl::string_view file) {
  return absl::StrCat(VITSCALE_GOLDEN_DATA, "/", file);
}

GoldenFile::GoldenFile(absl::string_view name)
    : path_(GoldenPath(absl::StrCat(name, ".safetensors"))) {
  auto reader = TensorFileReader::Open(PosixFileSystem(), path_);
  VITSCALE_CHECK(reader.ok()) << path_ << ": " << reader.status().ToString();
  reader_ = std::make_unique<TensorFileReader>(std::move(reader).value());
}

const TensorEntry& GoldenFile::Entry(absl::string_view tensor) const {
  const TensorEntry* entry = reader_->Find(tensor);
  VITSCALE_CHECK(entry != nullptr) << path_ << " has no tensor " << tensor;
  return *entry;
}

bool GoldenFile::Has(absl::string_view tensor) const { return reader_->Find(tensor) != nullptr; }

std::vector<std::string> GoldenFile::Names() const {
  std::vector<std::string> names;
  for (const TensorEntry& entry : reader_->tensors()) names.push_back(entry.name);
  return names;
}

Shape GoldenFile::ShapeOf(absl::string_view tensor) const { return Entry(tensor).shape; }
DType GoldenFile::DTypeOf(absl::string_view tensor) const { return Entry(tensor).dtype; }

std::string GoldenFile::Note(const std::string& key) const {
  const auto found = reader_->metadata().find(key);
  return found == reader_->metadata().end() ? "" : found->second;
}

std::vector<std::byte> GoldenFile::Bytes(absl::string_view tensor) const {
  const TensorEntry& entry = Entry(tensor);
  std::vector<std::byte> bytes(entry.bytes);
  const absl::Status read = reader_->Read(entry, absl::MakeSpan(bytes));
  VITSCALE_CHECK(read.ok()) << path_ << ": " << read.ToString();
  return bytes;
}

std::vector<double> GoldenFile::Values(absl::string_view tensor) const {
  const std::vector<std::byte> bytes = Bytes(tensor);
  const TensorEntry& entry = Entry(tensor);
  std::vector<double> values(ElementCount(entry.shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = Decode(bytes, entry.dtype, i);
  return values;
}

std::vector<float> GoldenFile::Floats(absl::string_view tensor) const {
  const DType dtype = DTypeOf(tensor);
  VITSCALE_CHECK(dtype == DType::kF32 || dtype == DType::kBf16)
      << path_ << ": " << tensor << " is " << DTypeName(dtype);
  const std::vector<double> values = Values(tensor);
  return {values.begin(), values.end()};
}

std::vector<int64_t> GoldenFile::Integers(absl::string_view tensor) const {
  const std::vector<double> values = Values(tensor);
  return {values.begin(), values.end()};
}

double GoldenFile::Scalar(absl::string_view tensor) const {
  const std::vector<double> values = Values(tensor);
  VITSCALE_CHECK(values.size() == 1) << path_ << ": " << tensor << " has " << values.size();
  return values[0];
}

double RelativeL2(absl::Span<const double> actual, absl::Span<const double> truth) {
  return RelativeL2Of(actual, truth);
}
double RelativeL2(absl::Span<const float> actual, absl::Span<const double> truth) {
  return RelativeL2Of(actual, truth);
}

double L2(absl::Span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

int64_t UlpDistance(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return kNotComparable;
  return std::abs(OnALine(std::bit_cast<uint32_t>(a)) - OnALine(std::bit_cast<uint32_t>(b)));
}

int64_t Bf16UlpDistance(uint16_t a, uint16_t b) {
  if (std::isnan(FromBf16(a)) || std::isnan(FromBf16(b))) return kNotComparable;
  return std::abs(OnALine(a) - OnALine(b));
}

double UlpError(float actual, double truth) {
  int exponent = 0;
  std::frexp(truth, &exponent);  // |truth| in [2^(exponent - 1), 2^exponent)
  return std::abs(actual - truth) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

void ErrorTable::Expect(absl::string_view name, double error, double bound, absl::string_view unit,
                        absl::string_view where) {
  EXPECT_LE(error, bound) << name << " (" << unit << ") at " << where;
  const auto found =
      std::find_if(rows_.begin(), rows_.end(), [&](const Row& row) { return row.name == name; });
  Row row{std::string(name), std::string(unit), std::string(where), error, bound};
  if (found == rows_.end()) {
    rows_.push_back(row);
  } else if (!(error / bound <= found->error / found->bound)) {
    *found = row;
  }
}

ErrorTable::~ErrorTable() {
  for (const Row& row : rows_) {
    std::printf("[  GOLDEN  ] %-44s largest %-10.4g bound %-10.4g %s (%s)\n", row.name.c_str(),
                row.error, row.bound, row.unit.c_str(), row.where.c_str());
  }
}

}  // namespace vitscale::golden
