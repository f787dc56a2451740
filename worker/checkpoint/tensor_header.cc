#include "worker/checkpoint/tensor_header.h"

#include <algorithm>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "nlohmann/json.hpp"

namespace vitscale {
namespace {

using Json = nlohmann::json;

constexpr char kMetadataKey[] = "__metadata__";

struct DTypeSpelling {
  DType dtype;
  const char* text;
};
constexpr DTypeSpelling kSpellings[] = {{DType::kU8, "U8"},   {DType::kBf16, "BF16"},
                                        {DType::kF32, "F32"}, {DType::kF64, "F64"},
                                        {DType::kI32, "I32"}, {DType::kI64, "I64"}};

const char* SpellingOf(DType dtype) {
  for (const DTypeSpelling& spelling : kSpellings) {
    if (spelling.dtype == dtype) return spelling.text;
  }
  return "";
}

absl::Status Fault(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("safetensors header: ", what));
}
absl::Status TensorFault(absl::string_view name, absl::string_view what) {
  return Fault(absl::StrCat("tensor '", name, "': ", what));
}

absl::StatusOr<DType> DTypeOf(const std::string& name, const Json& value) {
  std::string text = "missing";
  if (value.is_string()) text = value.get<std::string>();
  for (const DTypeSpelling& spelling : kSpellings) {
    if (text == spelling.text) return spelling.dtype;
  }
  return TensorFault(name,
                     absl::StrCat("dtype is ", text, ", want U8, BF16, F32, F64, I32 or I64"));
}

bool ReadCount(const Json& value, int64_t* count) {
  if (!value.is_number_unsigned()) return false;
  const uint64_t number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
  *count = static_cast<int64_t>(number);
  return true;
}

// Checked against overflow: a product that does not fit in 63 bits cannot be the size of anything
// in a file.
absl::StatusOr<int64_t> BytesOf(const std::string& name, DType dtype, const Shape& shape) {
  int64_t bytes = DTypeBytes(dtype);
  for (const int64_t dim : shape) {
    if (dim != 0 && bytes > std::numeric_limits<int64_t>::max() / dim) {
      return TensorFault(name, absl::StrCat("shape [", absl::StrJoin(shape, ", "), "] overflows"));
    }
    bytes *= dim;
  }
  return bytes;
}

absl::StatusOr<TensorEntry> ParseEntry(const std::string& name, const Json& value) {
  constexpr size_t kMostDims = 8;
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets")) {
    return TensorFault(name, "want exactly dtype, shape and data_offsets");
  }
  TensorEntry entry;
  entry.name = name;
  VITSCALE_ASSIGN_OR_RETURN(entry.dtype, DTypeOf(name, value["dtype"]));
  const Json& shape = value["shape"];
  if (!shape.is_array() || shape.size() > kMostDims) {
    return TensorFault(name, absl::StrCat("shape is no list of at most ", kMostDims, " numbers"));
  }
  for (const Json& dim : shape) {
    int64_t count = 0;
    if (!ReadCount(dim, &count)) return TensorFault(name, "shape holds what is no count");
    entry.shape.push_back(count);
  }
  const Json& offsets = value["data_offsets"];
  int64_t end = 0;
  if (!offsets.is_array() || offsets.size() != 2 || !ReadCount(offsets[0], &entry.offset) ||
      !ReadCount(offsets[1], &end) || end < entry.offset) {
    return TensorFault(name, "data_offsets is no pair [begin, end]");
  }
  entry.bytes = end - entry.offset;
  VITSCALE_ASSIGN_OR_RETURN(const int64_t wanted, BytesOf(name, entry.dtype, entry.shape));
  if (entry.bytes == wanted) return entry;
  return TensorFault(
      name, absl::StrCat("data_offsets span ", entry.bytes, " bytes, ", SpellingOf(entry.dtype),
                         " [", absl::StrJoin(entry.shape, ", "), "] wants ", wanted));
}

absl::Status ParseMetadata(const Json& value, std::map<std::string, std::string>* metadata) {
  if (!value.is_object()) return Fault("__metadata__ is no object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) return Fault(absl::StrCat("__metadata__ '", key, "' is no string"));
    (*metadata)[key] = text.get<std::string>();
  }
  return absl::OkStatus();
}

// No exceptions, no deep nesting (entries hold lists, nothing deeper), no key twice in the same
// object.
absl::StatusOr<Json> ParseStrictly(absl::string_view text) {
  constexpr int kDeepest = 3;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::string fault;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kDeepest) fault = "nested too deeply";
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.empty()) {
      const std::string key = parsed.get<std::string>();
      if (!keys.back().insert(key).second) fault = absl::StrCat("name '", key, "' stands twice");
    }
    return fault.empty();
  };
  Json root = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (!fault.empty()) return Fault(fault);
  if (root.is_discarded() || !root.is_object()) return Fault("is no JSON object");
  return root;
}

// Sorted by place, tensors must fill the data from its first byte to its last.
absl::Status CheckPlaces(std::vector<TensorEntry>* tensors, int64_t data_bytes) {
  std::sort(tensors->begin(), tensors->end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.offset, a.offset + a.bytes) < std::pair(b.offset, b.offset + b.bytes);
  });
  int64_t end = 0;
  for (const TensorEntry& entry : *tensors) {
    if (entry.offset != end) {
      return TensorFault(entry.name,
                         absl::StrCat("begins at ", entry.offset, ", the one before ends at ", end,
                                      entry.offset < end ? ": overlap" : ": gap"));
    }
    end += entry.bytes;
    if (end > data_bytes) break;
  }
  if (end == data_bytes) return absl::OkStatus();
  return Fault(absl::StrCat("tensors end at ", end, ", the data of the file at ", data_bytes));
}

}  // namespace

std::string MakeTensorHeader(const std::vector<TensorEntry>& tensors,
                             const std::map<std::string, std::string>& metadata) {
  Json root = Json::object();
  if (!metadata.empty()) root[kMetadataKey] = metadata;
  for (const TensorEntry& entry : tensors) {
    root[entry.name] = {{"dtype", SpellingOf(entry.dtype)},
                        {"shape", std::vector<int64_t>(entry.shape.begin(), entry.shape.end())},
                        {"data_offsets", {entry.offset, entry.offset + entry.bytes}}};
  }
  std::string text = root.dump(-1, ' ', false, Json::error_handler_t::replace);
  constexpr int64_t kLengthBytes = 8;
  text.resize(AlignUp(kLengthBytes + static_cast<int64_t>(text.size())) - kLengthBytes, ' ');
  return text;
}

absl::StatusOr<TensorHeader> ParseTensorHeader(absl::string_view json, int64_t data_bytes) {
  VITSCALE_ASSIGN_OR_RETURN(const Json root, ParseStrictly(json));
  TensorHeader header;
  for (const auto& [name, value] : root.items()) {
    if (name == kMetadataKey) {
      VITSCALE_RETURN_IF_ERROR(ParseMetadata(value, &header.metadata));
      continue;
    }
    VITSCALE_ASSIGN_OR_RETURN(TensorEntry entry, ParseEntry(name, value));
    header.tensors.push_back(std::move(entry));
  }
  VITSCALE_RETURN_IF_ERROR(CheckPlaces(&header.tensors, data_bytes));
  return header;
}

}  // namespace vitscale
