// Lists and single messages in the format that `-o` asks for.

#ifndef CLIENT_OUTPUT_H_
#define CLIENT_OUTPUT_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/context.h"
#include "client/text.h"
#include "google/protobuf/message.h"

namespace vitscale {

// A record is wanted for programs, not for people.
bool JsonOrYaml(const Context& context);

// JSON on one line, with zeros; YAML without them.
void PrintMessage(Context& context, const google::protobuf::Message& message);

// json: one array, an element a line; yaml: a list; csv, table, wide: what `table` gives.
void PrintList(Context& context, const std::vector<const google::protobuf::Message*>& messages,
               const std::function<Table()>& table);

template <typename M>
void PrintList(Context& context, const std::vector<M>& messages,
               const std::function<Table()>& table) {
  std::vector<const google::protobuf::Message*> pointers;
  for (const M& message : messages) pointers.push_back(&message);
  PrintList(context, pointers, table);
}

// With control characters, new lines excepted, written as \xHH.
std::string Harmless(absl::string_view text);

// "error: …" on standard error; several faults one per line.
void PrintError(Context& context, const absl::Status& status);

// A job file, or standard input for "-"; at most 1 MiB. INVALID_ARGUMENT if it cannot be read.
absl::StatusOr<std::string> ReadInput(Context& context, const std::string& path);

}  // namespace vitscale

#endif  // CLIENT_OUTPUT_H_
