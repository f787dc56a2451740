#include "proto/spec/bind.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/suggest.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

std::vector<std::string> FieldNames(const google::protobuf::Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) {
    names.push_back(type.field(i)->name());
  }
  return names;
}

// Values that the rules refuse because no engine of this version knows them: nobody is offered
// them.
bool IsReserved(const google::protobuf::EnumValueDescriptor& value) {
  static constexpr const char* kReserved[] = {"DATA_FORMAT_WEBDATASET", "LABEL_KIND_SPARSE",
                                              "LABEL_KIND_DENSE", "DIVERGENCE_POLICY_ROLLBACK"};
  return std::find(std::begin(kReserved), std::end(kReserved), value.name()) != std::end(kReserved);
}

std::vector<std::string> EnumWords(const EnumDescriptor& type) {
  std::vector<std::string> words;
  for (int i = 0; i < type.value_count(); ++i) {
    const auto& value = *type.value(i);
    if (value.number() != 0 && !IsReserved(value)) words.push_back(EnumWord(value));
  }
  return words;
}

std::string OneOf(const std::vector<std::string>& words) {
  if (words.size() < 2) return absl::StrJoin(words, "");
  const std::vector<std::string> most(words.begin(), words.end() - 1);
  return absl::StrCat(absl::StrJoin(most, ", "), " or ", words.back());
}

std::string Join(const std::string& path, const std::string& name) {
  return path.empty() ? name : absl::StrCat(path, ".", name);
}

class Binder {
 public:
  Binder(Places* places, std::vector<Fault>* faults) : places_(places), faults_(faults) {}

  void BindFields(const Node& node, Message* message, const std::string& path) {
    const auto* type = message->GetDescriptor();
    for (const NodeEntry& entry : node.entries) {
      const std::string field_path = Join(path, entry.key);
      const FieldDescriptor* field = type->FindFieldByName(entry.key);
      if (field == nullptr) {
        faults_->push_back({field_path,
                            absl::StrCat("unknown key", DidYouMean(entry.key, FieldNames(*type)),
                                         KnownKeys(*type)),
                            entry.place, false});
      } else if (!entry.value.is_null()) {  // nothing after the colon: not given
        (*places_)[field_path] = entry.place;
        BindField(entry.value, message, field, field_path);
      }
    }
  }

 private:
  void WasWanted(const Node& node, const std::string& path, absl::string_view wanted) {
    faults_->push_back(
        {path, absl::StrCat("was ", DescribeNode(node), ", wanted ", wanted), node.place, false});
  }

  static std::string KnownKeys(const google::protobuf::Descriptor& type) {
    const auto names = FieldNames(type);
    return names.size() > 8 ? "" : absl::StrCat("; known are ", absl::StrJoin(names, ", "));
  }

  void BindField(const Node& node, Message* message, const FieldDescriptor* field,
                 const std::string& path) {
    if (field->is_map()) return BindMap(node, message, field, path);
    if (field->is_repeated()) return BindList(node, message, field, path);
    if (node.repeated) {
      faults_->push_back({path, "given more than once", node.entries.back().place, false});
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      BindChild(node, message->GetReflection()->MutableMessage(message, field), path);
    } else {
      BindScalar(node, message, field, path);
    }
  }

  void BindChild(const Node& node, Message* child, const std::string& path) {
    if (!node.is_map()) {
      return WasWanted(node, path,
                       absl::StrCat("a mapping with keys of ",
                                    absl::StrJoin(FieldNames(*child->GetDescriptor()), ", ")));
    }
    BindFields(node, child, path);
  }

  void BindList(const Node& node, Message* message, const FieldDescriptor* field,
                const std::string& path) {
    const bool messages = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (node.is_map() && messages) {  // textproto: a single one
      return BindElement(node, message, field, absl::StrCat(path, "[0]"));
    }
    if (!node.is_list()) {
      return WasWanted(node, path, "a list");
    }
    int index = 0;
    for (const NodeEntry& entry : node.entries) {
      BindElement(entry.value, message, field, absl::StrCat(path, "[", index++, "]"));
    }
  }

  void BindElement(const Node& node, Message* message, const FieldDescriptor* field,
                   const std::string& path) {
    (*places_)[path] = node.place;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      BindChild(node, message->GetReflection()->AddMessage(message, field), path);
    } else {
      BindScalar(node, message, field, path);
    }
  }

  // {key: value, …}, or textproto's entries {key: "k" value: "v"}.
  void BindMap(const Node& node, Message* message, const FieldDescriptor* field,
               const std::string& path) {
    const auto entry_of = [](const Node& n) {
      Node copy = n;
      return copy.is_map() && copy.entries.size() == 2 && copy.Find("key") != nullptr &&
             copy.Find("value") != nullptr;
    };
    if (node.repeated) {
      for (const NodeEntry& element : node.entries) BindMap(element.value, message, field, path);
    } else if (entry_of(node)) {
      Node copy = node;
      AddMapEntry(copy.Find("key")->text, *copy.Find("value"), message, field, path);
    } else if (!node.is_map()) {
      WasWanted(node, path, "a mapping");
    } else {
      for (const NodeEntry& entry : node.entries) {
        AddMapEntry(entry.key, entry.value, message, field, path);
      }
    }
  }

  void AddMapEntry(const std::string& key, const Node& value, Message* message,
                   const FieldDescriptor* field, const std::string& path) {
    Message* entry = message->GetReflection()->AddMessage(message, field);
    const auto* type = field->message_type();
    const std::string entry_path = Join(path, key);
    (*places_)[entry_path] = value.place;
    entry->GetReflection()->SetString(entry, type->map_key(), key);
    BindScalar(value, entry, type->map_value(), entry_path);
  }

  // Whole numbers in [lo, hi], decimal digits only.
  template <typename T>
  std::optional<T> Whole(const Node& node, const std::string& path) {
    T value{};
    const bool digits =
        !node.quoted && node.text.find_first_not_of("-+0123456789") == std::string::npos;
    if (!digits) {
      WasWanted(node, path, "a whole number");
    } else if (!absl::SimpleAtoi(node.text, &value)) {
      WasWanted(node, path,
                absl::StrCat("a whole number from ", std::numeric_limits<T>::min(), " to ",
                             std::numeric_limits<T>::max()));
    } else {
      return value;
    }
    return std::nullopt;
  }

  void BindScalar(const Node& node, Message* m, const FieldDescriptor* f, const std::string& path) {
    if (!node.is_scalar()) {
      return WasWanted(node, path, WantedOf(*f));
    }
    switch (f->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return BindWhole<int32_t>(node, m, f, path);
      case FieldDescriptor::CPPTYPE_INT64:
        return BindWhole<int64_t>(node, m, f, path);
      case FieldDescriptor::CPPTYPE_UINT64:
        return BindWhole<uint64_t>(node, m, f, path);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return BindDouble(node, m, f, path);
      case FieldDescriptor::CPPTYPE_BOOL:
        return BindBool(node, m, f, path);
      case FieldDescriptor::CPPTYPE_ENUM:
        return BindEnum(node, m, f, path);
      case FieldDescriptor::CPPTYPE_STRING:
        return BindString(node, m, f, path);
      default:
        WasWanted(node, path, "another kind of field");
    }
  }

  static std::string WantedOf(const FieldDescriptor& field) {
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        return "text";
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return "a number";
      case FieldDescriptor::CPPTYPE_BOOL:
        return "true or false";
      case FieldDescriptor::CPPTYPE_ENUM:
        return OneOf(EnumWords(*field.enum_type()));
      default:
        return "a whole number";
    }
  }

  template <typename T>
  void BindWhole(const Node& node, Message* m, const FieldDescriptor* f, const std::string& path) {
    const std::optional<T> value = Whole<T>(node, path);
    if (!value.has_value()) return;
    const Reflection* r = m->GetReflection();
    if constexpr (std::is_same_v<T, int32_t>) {
      f->is_repeated() ? r->AddInt32(m, f, *value) : r->SetInt32(m, f, *value);
    } else if constexpr (std::is_same_v<T, int64_t>) {
      f->is_repeated() ? r->AddInt64(m, f, *value) : r->SetInt64(m, f, *value);
    } else {
      f->is_repeated() ? r->AddUInt64(m, f, *value) : r->SetUInt64(m, f, *value);
    }
  }

  void BindDouble(const Node& node, Message* m, const FieldDescriptor* f, const std::string& path) {
    double value = 0;
    const bool decimal = node.text.find_first_not_of("+-.0123456789eE") == std::string::npos;
    if (node.quoted || !decimal || !absl::SimpleAtod(node.text, &value) || !std::isfinite(value)) {
      return WasWanted(node, path, "a finite number in decimal digits");
    }
    if (value == 0 &&
        node.text.substr(0, node.text.find_first_of("eE")).find_first_of("123456789") !=
            std::string::npos) {
      return WasWanted(node, path, "a number that is not too small for a double");
    }
    const Reflection* r = m->GetReflection();
    f->is_repeated() ? r->AddDouble(m, f, value) : r->SetDouble(m, f, value);
  }

  void BindBool(const Node& node, Message* m, const FieldDescriptor* f, const std::string& path) {
    if (node.quoted || (node.text != "true" && node.text != "false")) {
      return WasWanted(node, path, "true or false");
    }
    m->GetReflection()->SetBool(m, f, node.text == "true");
  }

  void BindEnum(const Node& node, Message* m, const FieldDescriptor* f, const std::string& path) {
    const auto* value = EnumByWord(*f->enum_type(), node.text);
    if (value == nullptr) {
      const auto words = EnumWords(*f->enum_type());
      return WasWanted(node, path, absl::StrCat(OneOf(words), DidYouMean(node.text, words)));
    }
    m->GetReflection()->SetEnum(m, f, value);
  }

  void BindString(const Node& node, Message* m, const FieldDescriptor* f, const std::string& path) {
    const Reflection* r = m->GetReflection();
    f->is_repeated() ? r->AddString(m, f, node.text) : r->SetString(m, f, node.text);
  }

  Places* const places_;
  std::vector<Fault>* const faults_;
};

}  // namespace

void BindMessage(const Node& root, Message* message, Places* places, std::vector<Fault>* faults) {
  Binder(places, faults).BindFields(root, message, "");
}

}  // namespace vitscale
