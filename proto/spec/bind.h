// From the tree of a document to a message, by reflection: unknown keys, wrong types, words of
// enums.
//
// Internal to proto/spec.

#ifndef PROTO_SPEC_BIND_H_
#define PROTO_SPEC_BIND_H_

#include <map>
#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "proto/spec/fault.h"
#include "proto/spec/node.h"

namespace vitscale {

// Field path -> where it was given.
using Places = std::map<std::string, std::string>;

// Fills `message` as far as it can and reports everything else. `root` is a mapping.
void BindMessage(const Node& root, google::protobuf::Message* message, Places* places,
                 std::vector<Fault>* faults);

}  // namespace vitscale

#endif  // PROTO_SPEC_BIND_H_
