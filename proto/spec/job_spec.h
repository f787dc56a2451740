// The job file: reads YAML, JSON and textproto into a JobSpec, checks every rule, fills defaults,
// writes it back. The one place that knows these rules; the schema and its comments are
// proto/vitscale/v1/job_spec.proto.
//
//   VITSCALE_ASSIGN_OR_RETURN(v1::JobSpec spec, ParseJobSpec(text, SpecFormat::kAuto, {"seed=2"}));
//   VITSCALE_ASSIGN_OR_RETURN(v1::JobSpec canonical, Canonicalize(spec));
//   std::cout << ToYaml(canonical);

#ifndef PROTO_SPEC_JOB_SPEC_H_
#define PROTO_SPEC_JOB_SPEC_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/spec/fault.h"
#include "vitscale/v1/job_spec.pb.h"

namespace vitscale {

// kAuto: JSON if the text begins with "{", textproto if a line opens a message ("model {"), else
// YAML.
enum class SpecFormat { kAuto, kYaml, kJson, kTextproto };

// By the ending of a file's name: .json; .textproto, .txtpb, .pbtxt; .yaml, .yml; anything else is
// kAuto.
SpecFormat FormatOfPath(absl::string_view path);

// `overrides`: "a.b=c", applied in order before anything is checked. The value is read as YAML
// ("{min: 2, max: 2}" and
// "[1, 5]" work), list elements are "evals[0].name" or "evals.0.name"; an index equal to the length
// appends; an empty value takes the key away. Errors: INVALID_ARGUMENT (UNIMPLEMENTED if only
// reserved features are asked for) with all faults at once, those of Validate included; see
// FaultsToStatus. The result is what the user wrote, not canonical.
absl::StatusOr<v1::JobSpec> ParseJobSpec(absl::string_view text,
                                         SpecFormat format = SpecFormat::kAuto,
                                         const std::vector<std::string>& overrides = {});

// Every fault of a spec from anywhere (it may have come over the wire). Empty: it is good.
std::vector<Fault> Validate(const v1::JobSpec& spec);

// Validates; fills every default; writes lengths, durations and preprocessing in their one form
// (lengths in images become steps). Idempotent. batch.micro stays 0 where it was not given: that
// choice needs the planner.
absl::StatusOr<v1::JobSpec> Canonicalize(const v1::JobSpec& spec);

// Deterministic serialisation: equal specs are equal bytes.
std::string SpecBytes(const v1::JobSpec& spec);

// A job file that ParseJobSpec reads back to an equal spec.
std::string ToYaml(const v1::JobSpec& spec);

}  // namespace vitscale

#endif  // PROTO_SPEC_JOB_SPEC_H_
