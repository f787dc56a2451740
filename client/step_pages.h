// All step records of a job, page by page.

#ifndef CLIENT_STEP_PAGES_H_
#define CLIENT_STEP_PAGES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/control_client.h"

namespace vitscale {

// Calls `use` with every page of the steps after `after`; waits a moment for the last ones of a job
// that has just succeeded. Errors: those of the call.
absl::Status ForEachStepPage(ControlClient& client, const std::string& job_id, int64_t after,
                             const std::function<void(const std::vector<v1::StepRecord>&)>& use);

}  // namespace vitscale

#endif  // CLIENT_STEP_PAGES_H_
