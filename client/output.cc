#include "client/output.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/files.h"
#include "proto/spec/fault.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

constexpr int64_t kInputBytesMax = 1 << 20;

absl::StatusOr<std::string> ReadStream(std::istream& in, const std::string& name) {
  std::string text(kInputBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kInputBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": more than ", kInputBytesMax, " bytes"));
  }
  return text;
}

}  // namespace

bool JsonOrYaml(const Context& context) {
  return context.format == OutputFormat::kJson || context.format == OutputFormat::kYaml;
}

void PrintMessage(Context& context, const google::protobuf::Message& message) {
  if (context.format == OutputFormat::kJson) {
    context.out << MessageToJson(message, {.zeros = true}) << "\n";
  } else {
    context.out << MessageToYaml(message);
  }
}

void PrintList(Context& context, const std::vector<const google::protobuf::Message*>& messages,
               const std::function<Table()>& table) {
  switch (context.format) {
    case OutputFormat::kTable:
    case OutputFormat::kWide:
      context.out << table().Text();
      return;
    case OutputFormat::kCsv:
      context.out << table().Csv();
      return;
    case OutputFormat::kJson: {
      context.out << "[";
      const char* separator = "\n";
      for (const auto* message : messages) {
        context.out << separator << MessageToJson(*message, {.zeros = true});
        separator = ",\n";
      }
      context.out << (messages.empty() ? "]\n" : "\n]\n");
      return;
    }
    case OutputFormat::kYaml:
      if (messages.empty()) context.out << "[]\n";
      for (const auto* message : messages) {
        const char* margin = "- ";
        for (const absl::string_view line :
             absl::StrSplit(MessageToYaml(*message), '\n', absl::SkipEmpty())) {
          context.out << margin << line << "\n";
          margin = "  ";
        }
      }
      return;
  }
}

// Names from files stand in messages: they must not steer the terminal.
std::string Harmless(absl::string_view text) {
  std::string harmless;
  for (const char c : text) {
    const bool control = (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f;
    control ? absl::StrAppend(&harmless, "\\x", absl::Hex(c & 0xff, absl::kZeroPad2))
            : absl::StrAppend(&harmless, absl::string_view(&c, 1));
  }
  return harmless;
}

void PrintError(Context& context, const absl::Status& status) {
  const std::vector<Fault> faults = StatusToFaults(status);
  std::string message = Harmless(status.message());
  const size_t list = message.find(" faults: ");
  if (faults.size() < 2 || list == std::string::npos) {
    context.err << "error: " << message << "\n";
    return;
  }
  context.err << "error: " << message.substr(0, list) << " faults:\n";
  for (const Fault& fault : faults) {
    context.err << "  " << Harmless(FaultText(fault)) << "\n";
  }
}

absl::StatusOr<std::string> ReadInput(Context& context, const std::string& path) {
  if (path == "-") return ReadStream(context.in, "standard input");
  const auto info = PosixFileSystem().Stat(path);
  if (info.ok() && !info->is_regular && !info->is_directory) {  // <(a command), /dev/stdin
    std::ifstream stream(path);
    return ReadStream(stream, absl::StrCat("'", path, "'"));
  }
  auto text = PosixFileSystem().ReadFile(path, kInputBytesMax);
  if (text.ok()) return text;
  return absl::InvalidArgumentError(absl::StrCat("job file: ", text.status().message()));
}

}  // namespace vitscale
