// "--set a.b=c" on the tree of a document. Internal to proto/spec.

#ifndef PROTO_SPEC_OVERRIDES_H_
#define PROTO_SPEC_OVERRIDES_H_

#include <string>
#include <vector>

#include "proto/spec/fault.h"
#include "proto/spec/node.h"

namespace vitscale {

// Applies them in order; a faulty one changes nothing.
void ApplyOverrides(const std::vector<std::string>& overrides, Node* root,
                    std::vector<Fault>* faults);

}  // namespace vitscale

#endif  // PROTO_SPEC_OVERRIDES_H_
