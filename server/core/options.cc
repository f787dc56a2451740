#include "server/core/options.h"

#include "absl/strings/str_cat.h"

namespace vitscale {
namespace {

absl::Status AtLeast(const char* name, absl::Duration value, const char* of, absl::Duration least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " was ", absl::FormatDuration(value),
                                                 ", wanted at least ", absl::FormatDuration(least),
                                                 " (", of, ")"));
}

}  // namespace

absl::Status CoreOptions::Check() const {
  absl::Status status = AtLeast("heartbeat", heartbeat, "the shortest", absl::Milliseconds(10));
  status.Update(AtLeast("lease", lease, "3 heartbeats", 3 * heartbeat));
  status.Update(AtLeast("orphan window", orphan_window, "the lease", lease));
  status.Update(AtLeast("ready deadline", ready_deadline, "1 heartbeat", heartbeat));
  status.Update(
      AtLeast("prepare deadline", prepare_deadline, "the ready deadline", ready_deadline));
  status.Update(AtLeast("back-off maximum", backoff_max, "its minimum", backoff_min));
  return status;
}

}  // namespace vitscale
