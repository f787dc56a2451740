// How two job files differ, field by field, in the words of a job file.

#ifndef PROTO_SPEC_DIFFERENCE_H_
#define PROTO_SPEC_DIFFERENCE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale {

// Each "optimizer.lr: was 0.001, is 0.002", in the order of the paths; "was not given" and "is not
// given" where only one of the two has the field. Give canonical YAML (ToYaml): defaults then count
// as given. Errors: INVALID_ARGUMENT where a text is no YAML.
absl::StatusOr<std::vector<std::string>> SpecDifferences(absl::string_view before,
                                                         absl::string_view now);

}  // namespace vitscale

#endif  // PROTO_SPEC_DIFFERENCE_H_
