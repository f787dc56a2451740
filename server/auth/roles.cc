#include "server/auth/roles.h"

namespace vitscale {

const std::vector<MethodRow>& MethodTable() {
  static constexpr char kControl[] = "vitscale.v1.ControlService";
  static constexpr char kWorker[] = "vitscale.v1.WorkerService";
  static const auto* table = new std::vector<MethodRow>{
      {kControl, "SubmitJob", Role::kSubmitter, DeadlineRule::kRequired},
      {kControl, "GetJob", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "ListJobs", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "SetIntent", Role::kSubmitter, DeadlineRule::kRequired},
      {kControl, "WatchJob", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "ListSteps", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "ListEvals", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "StreamEvents", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "StreamLogs", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "ListWorkers", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "UpdateWorker", Role::kOperator, DeadlineRule::kRequired},
      {kControl, "ListCheckpoints", Role::kViewer, DeadlineRule::kRequired},
      {kControl, "PinCheckpoint", Role::kSubmitter, DeadlineRule::kRequired},
      {kControl, "GetServerInfo", Role::kViewer, DeadlineRule::kRequired},
      {kWorker, "Register", Role::kWorker, DeadlineRule::kRequired},
      {kWorker, "Session", Role::kWorker, DeadlineRule::kOptional},
  };
  return *table;
}

const MethodRow* FindMethod(absl::string_view service, absl::string_view method) {
  for (const MethodRow& row : MethodTable()) {
    if (service == row.service && method == row.method) return &row;
  }
  return nullptr;
}

absl::Status CheckRole(const std::string& principal, const MethodRow& method) {
  return absl::OkStatus();
}

}  // namespace vitscale
