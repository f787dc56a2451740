#include "proto/spec/fault.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"

namespace vitscale {

std::string FaultText(const Fault& fault) {
  std::string text = fault.field;
  if (!fault.place.empty()) {
    absl::StrAppend(&text, text.empty() ? "" : " ", "(", fault.place, ")");
  }
  return text.empty() ? fault.text : absl::StrCat(text, ": ", fault.text);
}

absl::Status FaultsToStatus(absl::string_view noun, const std::vector<Fault>& faults) {
  if (faults.empty()) {
    return absl::OkStatus();
  }
  google::rpc::BadRequest details;
  std::string message = std::string(noun);
  absl::StrAppend(&message, message.empty() ? "" : ": ");
  if (faults.size() > 1) {
    absl::StrAppend(&message, faults.size(), " faults: ");
  }
  bool first = true;
  for (const Fault& fault : faults) {
    absl::StrAppend(&message, first ? "" : "; ", FaultText(fault));
    first = false;
    auto* violation = details.add_field_violations();
    violation->set_field(fault.field);
    violation->set_description(FaultText({"", fault.text, fault.place, false}));
  }
  const bool reserved =
      std::all_of(faults.begin(), faults.end(), [](const Fault& f) { return f.reserved; });
  absl::Status status(
      reserved ? absl::StatusCode::kUnimplemented : absl::StatusCode::kInvalidArgument, message);
  status.SetPayload(kBadRequestPayload, absl::Cord(details.SerializeAsString()));
  return status;
}

std::vector<Fault> StatusToFaults(const absl::Status& status) {
  std::vector<Fault> faults;
  const auto payload = status.GetPayload(kBadRequestPayload);
  google::rpc::BadRequest details;
  if (!payload.has_value() || !details.ParseFromString(std::string(*payload))) {
    return faults;
  }
  for (const auto& violation : details.field_violations()) {
    Fault fault{violation.field(), violation.description(), "", false};
    const size_t end = fault.text.find("): ");
    if (absl::StartsWith(fault.text, "(") &&
        end != std::string::npos) {  // as FaultText writes a place
      fault.place = fault.text.substr(1, end - 1);
      fault.text.erase(0, end + 3);
    }
    faults.push_back(std::move(fault));
  }
  return faults;
}

}  // namespace vitscale
