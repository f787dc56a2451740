// The grammar of preprocessing: "op|op(1,2)". What an op does is worker/data's matter; which ops
// exist, how many arguments they take and which of them draw random numbers is said here, so that a
// bad job is refused at submit.

#ifndef PROTO_SPEC_PREPROCESS_H_
#define PROTO_SPEC_PREPROCESS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale {

struct PreprocessOp {
  std::string name;
  std::vector<double> arguments;
};

// Errors: INVALID_ARGUMENT; UNIMPLEMENTED for an op that this version knows of but does not run.
absl::StatusOr<std::vector<PreprocessOp>> ParsePreprocessOps(absl::string_view text);

// The one way to write it: no spaces, shortest numbers.
std::string FormatPreprocess(const std::vector<PreprocessOp>& ops);

// Draws random numbers: not for evaluations.
bool IsRandomOp(const PreprocessOp& op);

// Without those ops: what an evaluation uses by default.
std::vector<PreprocessOp> WithoutRandomOps(const std::vector<PreprocessOp>& ops);

}  // namespace vitscale

#endif  // PROTO_SPEC_PREPROCESS_H_
