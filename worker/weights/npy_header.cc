#include "worker/weights/npy_header.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr absl::string_view kMagic = "\x93NUMPY";
constexpr size_t kMostDims = 8;

absl::Status Fault(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("npy header: ", what));
}

// Reads the dictionary from front to back: keys in any order, each once.
class DictionaryReader {
 public:
  explicit DictionaryReader(absl::string_view text) : rest_(text) {}

  absl::Status Read() {
    if (!Take('{')) return Fault("is no dictionary");
    while (!Take('}')) {
      VITSCALE_ASSIGN_OR_RETURN(const std::string key, Text());
      if (!Take(':')) return Fault(absl::StrCat("no ':' after '", key, "'"));
      VITSCALE_RETURN_IF_ERROR(Value(key));
      if (!Take(',') && !absl::StartsWith(rest_, "}")) return Fault("no ',' between entries");
    }
    rest_ = absl::StripAsciiWhitespace(rest_);
    if (!rest_.empty()) return Fault("goes on behind the dictionary");
    if (has_descr_ && has_order_ && has_shape_) return absl::OkStatus();
    return Fault("wants descr, fortran_order and shape");
  }

  std::string descr;  // empty: a structure
  bool fortran_order = false;
  Shape shape;

 private:
  void SkipSpace() { rest_ = absl::StripLeadingAsciiWhitespace(rest_); }
  bool Take(char wanted) {
    SkipSpace();
    const bool there = !rest_.empty() && rest_[0] == wanted;
    if (there) rest_.remove_prefix(1);
    SkipSpace();
    return there;
  }
  bool TakeWord(absl::string_view word) {
    SkipSpace();
    return absl::ConsumePrefix(&rest_, word);
  }

  absl::StatusOr<std::string> Text() {
    SkipSpace();
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) return Fault("wants a quoted text");
    const size_t end = rest_.find(rest_[0], 1);
    if (end == absl::string_view::npos) return Fault("a quoted text does not end");
    std::string text(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    if (absl::StrContains(text, '\\')) return Fault("a quoted text holds a backslash");
    return text;
  }

  absl::Status Value(const std::string& key) {
    bool* const has = key == "descr"           ? &has_descr_
                      : key == "fortran_order" ? &has_order_
                      : key == "shape"         ? &has_shape_
                                               : nullptr;
    if (has == nullptr) return Fault(absl::StrCat("key '", absl::CHexEscape(key), "' is unknown"));
    if (*has) return Fault(absl::StrCat("key '", key, "' stands twice"));
    *has = true;
    if (key == "descr") return Descr();
    if (key == "shape") return Dimensions();
    fortran_order = TakeWord("True");
    return fortran_order || TakeWord("False") ? absl::OkStatus()
                                              : Fault("fortran_order is neither True nor False");
  }

  // A structure is a list of fields; what is in it does not matter, only where it ends.
  absl::Status Descr() {
    SkipSpace();
    if (!absl::StartsWith(rest_, "[")) {
      VITSCALE_ASSIGN_OR_RETURN(descr, Text());
      return absl::OkStatus();
    }
    int depth = 0;
    for (size_t i = 0; i < rest_.size(); ++i) {
      if (rest_[i] == '[') ++depth;
      if (rest_[i] == ']' && --depth == 0) {
        rest_.remove_prefix(i + 1);
        return absl::OkStatus();
      }
    }
    return Fault("the list of fields does not end");
  }

  absl::Status Dimensions() {
    if (!Take('(')) return Fault("shape is no tuple");
    while (!Take(')')) {
      size_t digits = 0;
      while (digits < rest_.size() && absl::ascii_isdigit(rest_[digits])) ++digits;
      int64_t dim = 0;
      if (!absl::SimpleAtoi(rest_.substr(0, digits), &dim)) {
        return Fault("shape holds what is no count");
      }
      rest_.remove_prefix(digits);
      if (shape.size() == kMostDims) return Fault("shape has more than 8 dimensions");
      shape.push_back(dim);
      if (!Take(',') && !absl::StartsWith(rest_, ")")) return Fault("shape is no tuple");
    }
    return absl::OkStatus();
  }

  absl::string_view rest_;
  bool has_descr_ = false, has_order_ = false, has_shape_ = false;
};

// Sets dtype or fault.
void Understand(const std::string& descr, bool fortran_order, NpyHeader* header) {
  constexpr char kWanted[] = ", want '<f4' or bfloat16 as '|V2'";
  if (descr == "<f4") {
    header->dtype = DType::kF32;
  } else if (descr == "|V2" || descr == "<V2") {
    header->dtype = DType::kBf16;
  } else if (descr.empty()) {
    header->fault = absl::StrCat("is a structure", kWanted);
  } else {
    const char* what = absl::StartsWith(descr, ">")    ? " (big-endian)"
                       : absl::StrContains(descr, 'O') ? " (Python objects)"
                                                       : "";
    header->fault = absl::StrCat("has dtype '", absl::CHexEscape(descr), "'", what, kWanted);
  }
  if (header->fault.empty() && fortran_order && header->shape.size() > 1) {
    header->fault = "is in Fortran order, want C order";
  }
}

absl::StatusOr<int64_t> BytesOf(DType dtype, const Shape& shape) {
  int64_t bytes = DTypeBytes(dtype);
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim != 0 && bytes > std::numeric_limits<int64_t>::max() / dim) {
      return Fault(absl::StrCat("shape (", absl::StrJoin(shape, ", "), ") overflows"));
    }
    if (dim != 0) bytes *= dim;
    empty |= dim == 0;
  }
  return empty ? 0 : bytes;
}

}  // namespace

absl::StatusOr<NpyHeader> ParseNpyHeader(absl::string_view bytes) {
  constexpr size_t kVersionEnd = 8;
  if (bytes.size() < kVersionEnd || !absl::StartsWith(bytes, kMagic)) {
    return Fault("does not begin with \\x93NUMPY");
  }
  const int version = static_cast<uint8_t>(bytes[kMagic.size()]);
  if (version < 1 || version > 3) {
    return Fault(absl::StrCat("version is ", version, ", want 1 to 3"));
  }
  const size_t begin = kVersionEnd + (version == 1 ? 2 : 4);
  if (bytes.size() < begin) return Fault("ends early");
  uint32_t length = 0;  // little-endian, as the machine is
  std::memcpy(&length, bytes.data() + kVersionEnd, begin - kVersionEnd);
  if (length > kNpyHeaderBytesMax || bytes.size() - begin < length) {
    return Fault(absl::StrCat("is ", length, " bytes long, which is more than there are or than ",
                              kNpyHeaderBytesMax));
  }
  DictionaryReader dictionary(bytes.substr(begin, length));
  VITSCALE_RETURN_IF_ERROR(dictionary.Read());
  NpyHeader header;
  header.shape = dictionary.shape;
  header.header_bytes = static_cast<int64_t>(begin + length);
  Understand(dictionary.descr, dictionary.fortran_order, &header);
  VITSCALE_ASSIGN_OR_RETURN(header.data_bytes, BytesOf(header.dtype, header.shape));
  return header;
}

std::string MakeNpyHeader(const Shape& shape) {
  std::string text = absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (",
                                  absl::StrJoin(shape, ", "), shape.size() == 1 ? ",), }" : "), }");
  constexpr int64_t kFixedBytes = 10;  // magic, version, length
  const int64_t length = AlignUp(kFixedBytes + static_cast<int64_t>(text.size()) + 1) - kFixedBytes;
  text.resize(length - 1, ' ');
  std::string header = absl::StrCat(kMagic, absl::string_view("\x01\x00", 2));
  header.push_back(static_cast<char>(length & 0xff));
  header.push_back(static_cast<char>(length >> 8));
  return absl::StrCat(header, text, "\n");
}

}  // namespace vitscale
