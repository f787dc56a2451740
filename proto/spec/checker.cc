#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/spec/message_text.h"
#include "proto/spec/preprocess.h"
#include "proto/spec/rules.h"

namespace vitscale {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int kSpecListMax = 64;
constexpr size_t kTextBytesMax = 4096;

// `allowed` holds characters and ranges as in a regular expression's brackets; a "-" at the end is
// itself.
bool Allowed(char c, absl::string_view allowed) {
  for (size_t i = 0; i < allowed.size(); ++i) {
    if (i + 2 < allowed.size() && allowed[i + 1] == '-') {
      if (c >= allowed[i] && c <= allowed[i + 2]) return true;
      i += 2;
    } else if (c == allowed[i]) {
      return true;
    }
  }
  return false;
}

void CheckText(const std::string& text, const std::string& path, Checker* checker) {
  if (text.size() > kTextBytesMax) {
    checker->Fail(path,
                  absl::StrCat("was ", text.size(), " bytes long, wanted at most ", kTextBytesMax));
    return;
  }
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      checker->Fail(path, "has a control character");
      return;
    }
  }
}

void CheckValue(const Message& m, const FieldDescriptor* f, int i, const std::string& path,
                Checker* checker) {
  const Reflection* r = m.GetReflection();
  const bool list = i >= 0;
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      CheckGenerally(list ? r->GetRepeatedMessage(m, f, i) : r->GetMessage(m, f), path, checker);
      break;
    case FieldDescriptor::CPPTYPE_STRING:
      CheckText(list ? r->GetRepeatedString(m, f, i) : r->GetString(m, f), path, checker);
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      if (!std::isfinite(list ? r->GetRepeatedDouble(m, f, i) : r->GetDouble(m, f))) {
        checker->Fail(path, "was not finite, wanted a finite number");
      }
      break;
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int value = list ? r->GetRepeatedEnumValue(m, f, i) : r->GetEnumValue(m, f);
      if (f->enum_type()->FindValueByNumber(value) == nullptr) {
        checker->Fail(path, absl::StrCat("was ", value, ", which is no ", f->enum_type()->name()));
      }
      break;
    }
    default:
      break;
  }
}

}  // namespace

void Checker::Add(const std::string& field, std::string text, bool reserved) {
  for (const Fault& fault : faults) {
    if (fault.field == field) return;
  }
  faults.push_back({field, std::move(text), "", reserved});
}

bool Checker::Range(const std::string& field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return true;
  Fail(field, absl::StrCat("was ", value, ", wanted ", low, " to ", high));
  return false;
}

bool Checker::Range(const std::string& field, double value, double low, double high, bool low_open,
                    bool high_open) {
  const bool above = low_open ? value > low : value >= low;
  const bool below = high_open ? value < high : value <= high;
  if (above && below) return true;
  Fail(field,
       absl::StrCat("was ", ShortestDouble(value), ", wanted ", low_open ? "above " : "",
                    ShortestDouble(low), high_open ? " to below " : " to ", ShortestDouble(high)));
  return false;
}

bool Checker::Word(const std::string& field, absl::string_view text, absl::string_view allowed,
                   size_t longest) {
  bool good = !text.empty() && text.size() <= longest;
  for (const char c : text) {
    good = good && Allowed(c, allowed);
  }
  if (!good) {
    Fail(field, absl::StrCat("was ", JsonQuote(text.substr(0, 80)), ", wanted 1 to ", longest,
                             " of [", allowed, "]"));
  }
  return good;
}

bool Checker::Path(const std::string& field, absl::string_view text) {
  for (const absl::string_view part : absl::StrSplit(text, '/')) {
    if (part == "..") {
      Fail(field, absl::StrCat("was ", JsonQuote(text), ", wanted a path without \"..\""));
      return false;
    }
  }
  return true;
}

std::optional<Length> Checker::LengthOf(const std::string& field, absl::string_view text,
                                        bool positive) {
  const auto length = ParseLength(text);
  if (!length.ok()) {
    Fail(field, std::string(length.status().message()));
    return std::nullopt;
  }
  if (positive && length->zero()) {
    Fail(field, absl::StrCat("was \"", text, "\", wanted more than 0"));
    return std::nullopt;
  }
  return *length;
}

void Checker::Preprocess(const std::string& field, absl::string_view text, bool random_allowed) {
  const auto ops = ParsePreprocessOps(text);
  if (absl::IsUnimplemented(ops.status())) {
    Reserve(field, std::string(ops.status().message()));
  } else if (!ops.ok()) {
    Fail(field, std::string(ops.status().message()));
  } else if (!random_allowed) {
    for (const PreprocessOp& op : *ops) {
      if (IsRandomOp(op))
        Fail(field, absl::StrCat("op \"", op.name, "\" is random, wanted none in an evaluation"));
    }
  }
}

void CheckGenerally(const Message& message, const std::string& path, Checker* checker) {
  std::vector<const FieldDescriptor*> fields;
  const Reflection* r = message.GetReflection();
  r->ListFields(message, &fields);
  for (const FieldDescriptor* f : fields) {
    const std::string at = path.empty() ? f->name() : absl::StrCat(path, ".", f->name());
    if (!f->is_repeated()) {
      CheckValue(message, f, -1, at, checker);
      continue;
    }
    const int size = r->FieldSize(message, f);
    if (size > kSpecListMax) {
      checker->Fail(at, absl::StrCat("had ", size, " elements, wanted at most ", kSpecListMax));
      continue;
    }
    for (int i = 0; i < size; ++i) {
      CheckValue(message, f, i, absl::StrCat(at, "[", i, "]"), checker);
    }
  }
}

}  // namespace vitscale
