// One fault of a job file, and all of them as a status.

#ifndef PROTO_SPEC_FAULT_H_
#define PROTO_SPEC_FAULT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace vitscale {

struct Fault {
  std::string field;      // "schedule.warmup", "evals[0].data.format"; empty: the file as a whole
  std::string text;       // what it was and what was wanted: "was -3, wanted 1 to 256"
  std::string place;      // "line 4", "--set"; empty: not from a file
  bool reserved = false;  // well formed, but this version does not do it
};

// "model.image_size (line 4): was -3, wanted 16 to 2048"
std::string FaultText(const Fault& fault);

// OK without faults. INVALID_ARGUMENT, or UNIMPLEMENTED when every fault is a reserved feature; the
// message is `noun` and all faults in one line; the payload kBadRequestPayload is a serialised
// google.rpc.BadRequest.
absl::Status FaultsToStatus(absl::string_view noun, const std::vector<Fault>& faults);

// The faults in such a status (also one that came over the wire); empty if it has no BadRequest.
std::vector<Fault> StatusToFaults(const absl::Status& status);

// Type URL of the payload.
inline constexpr char kBadRequestPayload[] = "type.googleapis.com/google.rpc.BadRequest";

}  // namespace vitscale

#endif  // PROTO_SPEC_FAULT_H_
