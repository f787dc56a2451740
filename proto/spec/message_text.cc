#include "proto/spec/message_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace vitscale {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// PositionEmbedding -> "POSITION_EMBEDDING_".
std::string EnumPrefix(const EnumDescriptor& type) {
  std::string prefix;
  for (const char c : type.name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  return prefix + "_";
}

// A tree of text: what both writers walk.
struct Piece {
  enum class Kind { kValue, kList, kMap } kind = Kind::kValue;
  std::string text;      // kValue
  bool is_text = false;  // kValue: a string, to be quoted where the format needs it
  std::vector<std::pair<std::string, Piece>> entries;
};

Piece Plain(std::string text) { return {Piece::Kind::kValue, std::move(text), false, {}}; }
Piece Text(std::string text) { return {Piece::Kind::kValue, std::move(text), true, {}}; }

Piece Number(double value) {
  if (std::isnan(value)) return Text("NaN");
  if (std::isinf(value)) return Text(value > 0 ? "Infinity" : "-Infinity");
  return Plain(ShortestDouble(value));
}

Piece MessagePiece(const Message& message, const MessageTextOptions& options);

// The value of a singular field (index < 0) or of one element.
Piece FieldPiece(const Message& m, const FieldDescriptor* f, int i,
                 const MessageTextOptions& options) {
  const Reflection* r = m.GetReflection();
  const bool list = i >= 0;
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return Plain(absl::StrCat(list ? r->GetRepeatedInt32(m, f, i) : r->GetInt32(m, f)));
    case FieldDescriptor::CPPTYPE_INT64:
      return Plain(absl::StrCat(list ? r->GetRepeatedInt64(m, f, i) : r->GetInt64(m, f)));
    case FieldDescriptor::CPPTYPE_UINT32:
      return Plain(absl::StrCat(list ? r->GetRepeatedUInt32(m, f, i) : r->GetUInt32(m, f)));
    case FieldDescriptor::CPPTYPE_UINT64:
      return Plain(absl::StrCat(list ? r->GetRepeatedUInt64(m, f, i) : r->GetUInt64(m, f)));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Number(list ? r->GetRepeatedDouble(m, f, i) : r->GetDouble(m, f));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Number(list ? r->GetRepeatedFloat(m, f, i) : r->GetFloat(m, f));
    case FieldDescriptor::CPPTYPE_BOOL:
      return Plain((list ? r->GetRepeatedBool(m, f, i) : r->GetBool(m, f)) ? "true" : "false");
    case FieldDescriptor::CPPTYPE_ENUM:
      return Text(EnumShown(*(list ? r->GetRepeatedEnum(m, f, i) : r->GetEnum(m, f))));
    case FieldDescriptor::CPPTYPE_STRING:
      return Text(list ? r->GetRepeatedString(m, f, i) : r->GetString(m, f));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessagePiece(list ? r->GetRepeatedMessage(m, f, i) : r->GetMessage(m, f), options);
  }
  return Plain("null");
}

Piece MapPiece(const Message& m, const FieldDescriptor* f, const MessageTextOptions& options) {
  Piece piece{Piece::Kind::kMap, "", false, {}};
  const Reflection* r = m.GetReflection();
  for (int i = 0; i < r->FieldSize(m, f); ++i) {
    const Message& entry = r->GetRepeatedMessage(m, f, i);
    const auto* type = entry.GetDescriptor();
    piece.entries.emplace_back(FieldPiece(entry, type->map_key(), -1, options).text,
                               FieldPiece(entry, type->map_value(), -1, options));
  }
  std::sort(piece.entries.begin(), piece.entries.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return piece;
}

bool Written(const Message& m, const FieldDescriptor* f, const MessageTextOptions& options) {
  const Reflection* r = m.GetReflection();
  if (f->is_repeated()) return r->FieldSize(m, f) > 0;
  if (r->HasField(m, f)) return true;
  // An enum that is not given has no word.
  return options.zeros && !f->has_presence() &&
         f->cpp_type() != FieldDescriptor::CPPTYPE_ENUM;
}

Piece MessagePiece(const Message& m, const MessageTextOptions& options) {
  if (const auto* time = dynamic_cast<const google::protobuf::Timestamp*>(&m)) {
    const absl::Time t = absl::FromUnixSeconds(time->seconds()) + absl::Nanoseconds(time->nanos());
    return Text(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", t, absl::UTCTimeZone()));
  }
  if (const auto* duration = dynamic_cast<const google::protobuf::Duration*>(&m)) {
    return Number(static_cast<double>(duration->seconds()) + duration->nanos() * 1e-9);
  }
  Piece piece{Piece::Kind::kMap, "", false, {}};
  for (int i = 0; i < m.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* f = m.GetDescriptor()->field(i);
    if (!Written(m, f, options)) continue;
    if (f->is_map()) {
      piece.entries.emplace_back(f->name(), MapPiece(m, f, options));
    } else if (f->is_repeated()) {
      Piece list{Piece::Kind::kList, "", false, {}};
      for (int n = 0; n < m.GetReflection()->FieldSize(m, f); ++n) {
        list.entries.emplace_back("", FieldPiece(m, f, n, options));
      }
      piece.entries.emplace_back(f->name(), std::move(list));
    } else {
      piece.entries.emplace_back(f->name(), FieldPiece(m, f, -1, options));
    }
  }
  return piece;
}

// Plain YAML text that no reader takes for anything but a string.
bool PlainIsSafe(absl::string_view text) {
  static constexpr absl::string_view kWords[] = {"true", "false", "yes", "no",  "on",
                                                 "off",  "null",  "~",   "nan", "inf"};
  const std::string lower = absl::AsciiStrToLower(text);
  if (text.empty() || std::find(std::begin(kWords), std::end(kWords), lower) != std::end(kWords)) {
    return false;
  }
  double number;
  if (absl::SimpleAtod(text, &number) || !absl::ascii_isalnum(text[0])) return false;
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && !absl::StrContains(" ._-/()+,|", absl::string_view(&c, 1))) {
      return false;
    }
  }
  return text.back() != ' ';
}

std::string YamlValue(const Piece& piece) {
  if (!piece.is_text || PlainIsSafe(piece.text)) return piece.text;
  return JsonQuote(piece.text);
}

std::string YamlKey(const std::string& key) { return PlainIsSafe(key) ? key : JsonQuote(key); }

bool AllValues(const Piece& list) {
  return std::all_of(list.entries.begin(), list.entries.end(),
                     [](const auto& e) { return e.second.kind == Piece::Kind::kValue; });
}

void WriteYaml(const Piece& piece, int indent, std::string* out);

// What stands after "key:" or "-".
void WriteYamlValue(const Piece& piece, int indent, std::string* out) {
  if (piece.kind == Piece::Kind::kValue) {
    absl::StrAppend(out, " ", YamlValue(piece), "\n");
  } else if (piece.entries.empty()) {
    absl::StrAppend(out, piece.kind == Piece::Kind::kMap ? " {}\n" : " []\n");
  } else if (piece.kind == Piece::Kind::kList && AllValues(piece)) {
    std::string line;
    for (const auto& [_, value] : piece.entries) {
      absl::StrAppend(&line, line.empty() ? "" : ", ",
                      value.is_text ? JsonQuote(value.text) : value.text);
    }
    absl::StrAppend(out, " [", line, "]\n");
  } else {
    absl::StrAppend(out, "\n");
    WriteYaml(piece, indent + 2, out);
  }
}

void WriteYaml(const Piece& piece, int indent, std::string* out) {
  const std::string margin(indent, ' ');
  for (const auto& [key, value] : piece.entries) {
    if (piece.kind == Piece::Kind::kMap) {
      absl::StrAppend(out, margin, YamlKey(key), ":");
      WriteYamlValue(value, indent, out);
    } else if (value.kind == Piece::Kind::kMap && !value.entries.empty()) {
      std::string block;  // "- a: 1" and further keys below the first
      WriteYaml(value, indent + 2, &block);
      block.replace(indent, 2, "- ");
      absl::StrAppend(out, block);
    } else {
      absl::StrAppend(out, margin, "-");
      WriteYamlValue(value, indent, out);
    }
  }
}

void WriteJson(const Piece& piece, std::string* out) {
  if (piece.kind == Piece::Kind::kValue) {
    absl::StrAppend(out, piece.is_text ? JsonQuote(piece.text) : piece.text);
    return;
  }
  const bool map = piece.kind == Piece::Kind::kMap;
  absl::StrAppend(out, map ? "{" : "[");
  bool first = true;
  for (const auto& [key, value] : piece.entries) {
    absl::StrAppend(out, first ? "" : ", ");
    if (map) absl::StrAppend(out, JsonQuote(key), ": ");
    WriteJson(value, out);
    first = false;
  }
  absl::StrAppend(out, map ? "}" : "]");
}

}  // namespace

std::string EnumWord(const EnumValueDescriptor& value) {
  return absl::AsciiStrToLower(absl::StripPrefix(value.name(), EnumPrefix(*value.type())));
}

std::string EnumShown(const EnumValueDescriptor& value) {
  const bool of_job_file = absl::EndsWith(value.type()->file()->name(), "job_spec.proto");
  return of_job_file ? EnumWord(value) : absl::AsciiStrToUpper(EnumWord(value));
}

const EnumValueDescriptor* EnumByWord(const EnumDescriptor& type, absl::string_view word) {
  for (int i = 0; i < type.value_count(); ++i) {
    const EnumValueDescriptor* value = type.value(i);
    if (value->number() != 0 && (EnumWord(*value) == word || value->name() == word)) return value;
  }
  return nullptr;
}

std::string ShortestDouble(double value) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return std::string(buffer, end);
}

std::string JsonQuote(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string MessageToYaml(const Message& message, const MessageTextOptions& options) {
  std::string out;
  WriteYaml(MessagePiece(message, options), 0, &out);
  return out.empty() ? "{}\n" : out;
}

std::string MessageToJson(const Message& message, const MessageTextOptions& options) {
  std::string out;
  WriteJson(MessagePiece(message, options), &out);
  return out;
}

}  // namespace vitscale
