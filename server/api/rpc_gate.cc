#include "server/api/rpc_gate.h"

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace vitscale {

void PeerTable::Set(int fd, unsigned uid) {
  absl::MutexLock lock(&mutex_);
  uids_[fd] = uid;
}

std::string PeerTable::PrincipalOf(absl::string_view peer) const {
  int fd;
  if (!absl::ConsumePrefix(&peer, "fd:") || !absl::SimpleAtoi(peer, &fd)) return "anonymous";
  absl::MutexLock lock(&mutex_);
  const auto it = uids_.find(fd);
  return it == uids_.end() ? "anonymous" : absl::StrCat("uid:", it->second);
}

absl::StatusOr<const MethodRow*> AdmitCall(const std::string& principal, absl::string_view service,
                                           absl::string_view method, absl::Time deadline) {
  const MethodRow* row = FindMethod(service, method);
  if (row == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat(service, "/", method, " is in no row of the method table"));
  }
  if (row->deadline == DeadlineRule::kRequired && deadline == absl::InfiniteFuture()) {
    return absl::InvalidArgumentError(absl::StrCat(method, ": a deadline is required"));
  }
  const absl::Status allowed = CheckRole(principal, *row);
  if (!allowed.ok()) return allowed;
  return row;
}

std::string CodeName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

std::string StatusDetails(const absl::Status& status) {
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(std::string(status.message()));
  bool has_info = false;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    auto& any = *details.add_details();
    any.set_type_url(std::string(url));
    any.set_value(std::string(payload));
    has_info = has_info || absl::EndsWith(url, "google.rpc.ErrorInfo");
  });
  if (!has_info) {
    google::rpc::ErrorInfo info;
    info.set_reason(CodeName(status.code()));
    info.set_domain("vitscale");
    details.add_details()->PackFrom(info);
  }
  return details.SerializeAsString();
}

}  // namespace vitscale
