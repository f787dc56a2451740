// The .proto files are the manual of the interface; these tests keep it whole.

#include <regex>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/descriptor.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "vitscale/v1/job_spec.pb.h"

namespace vitscale {
namespace {

using google::protobuf::Descriptor;

std::string Source(const std::string& path) {
  const auto text =
      PosixFileSystem().ReadFile(absl::StrCat(VITSCALE_SOURCE_DIR, "/proto/", path), 1 << 20);
  EXPECT_THAT(text, IsOk());
  return text.value_or("");
}

// Lines that declare something and have no comment right above.
std::vector<std::string> Uncommented(const std::string& path) {
  static const std::regex declaration(
      R"(^\s*(rpc |message |enum |service |oneof |(optional |repeated |map<[^>]*> )?[\w.]*\s*\w+ = -?\d+;).*)");
  std::vector<std::string> bare;
  absl::string_view above;
  const std::string text = Source(path);
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const absl::string_view trimmed = absl::StripAsciiWhitespace(line);
    if (std::regex_match(std::string(line), declaration) && !absl::StartsWith(above, "//")) {
      bare.push_back(absl::StrCat(path, ": ", trimmed));
    }
    above = trimmed;
  }
  return bare;
}

TEST(ContractTest, EveryMessageFieldValueAndMethodIsCommented) {
  for (const char* path :
       {"vitscale/v1/job_spec.proto", "vitscale/v1/job.proto", "vitscale/v1/control_service.proto",
        "vitscale/v1/worker_service.proto", "vitscale/v1/trainer_link.proto",
        "google/rpc/error_details.proto", "google/rpc/status.proto"}) {
    EXPECT_THAT(Uncommented(path), testing::IsEmpty());
  }
}

TEST(ContractTest, EveryEnumStartsWithUnspecifiedSoThatNothingIsMeantByAccident) {
  const auto* file = v1::JobSpec::descriptor()->file();
  for (int i = 0; i < file->enum_type_count(); ++i) {
    const auto* zero = file->enum_type(i)->FindValueByNumber(0);
    EXPECT_TRUE(absl::EndsWith(zero->name(), "_UNSPECIFIED")) << zero->name();
  }
}

// Field names of a message and of all messages in it.
void CollectNames(const Descriptor& type, std::vector<std::string>* names) {
  for (int i = 0; i < type.field_count(); ++i) {
    const auto* field = type.field(i);
    names->push_back(field->name());
    if (field->message_type() != nullptr && !field->is_map())
      CollectNames(*field->message_type(), names);
  }
}

TEST(ContractTest, ThePageAboutTheJobFileNamesEveryField) {
  const std::string page = Source("spec/README.md");
  std::vector<std::string> names;
  CollectNames(*v1::JobSpec::descriptor(), &names);
  for (const std::string& name : names) {
    EXPECT_TRUE(std::regex_search(page, std::regex("\\b" + name + "\\b"))) << name;
  }
}

}  // namespace
}  // namespace vitscale
