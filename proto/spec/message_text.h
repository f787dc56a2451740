// Messages for people and scripts: YAML and JSON with field names as in the .proto, enum words
// without their prefix (those of the job file in lower case, states and intents in capitals),
// timestamps as RFC 3339 in UTC, durations in seconds, 64-bit integers as numbers.
//
// Protobuf's own JSON writes JOB_STATE_RUNNING and quotes 64-bit integers; both get in the way of
// `jq`.

#ifndef PROTO_SPEC_MESSAGE_TEXT_H_
#define PROTO_SPEC_MESSAGE_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace vitscale {

// PRECISION_BF16 is "bf16": the name of the value without the prefix of its type, in lower case.
std::string EnumWord(const google::protobuf::EnumValueDescriptor& value);
// As people see it: "bf16" of the job file, but "RUNNING" of a job.
std::string EnumShown(const google::protobuf::EnumValueDescriptor& value);
// The value of a word ("bf16") or full name ("PRECISION_BF16"); null if there is none. _UNSPECIFIED
// has no word.
const google::protobuf::EnumValueDescriptor* EnumByWord(
    const google::protobuf::EnumDescriptor& type, absl::string_view word);

struct MessageTextOptions {
  bool zeros = false;  // write numbers, strings and enums without presence that are zero, too
};

std::string MessageToYaml(const google::protobuf::Message& message,
                          const MessageTextOptions& options = {});

// One line. A non-finite number becomes the string "NaN", "Infinity" or "-Infinity", as in
// protobuf's JSON.
std::string MessageToJson(const google::protobuf::Message& message,
                          const MessageTextOptions& options = {});

// The shortest text that reads back as the same double: "0.03", "1e-05".
std::string ShortestDouble(double value);

// A JSON string with its quotes.
std::string JsonQuote(absl::string_view text);

}  // namespace vitscale

#endif  // PROTO_SPEC_MESSAGE_TEXT_H_
