#include "client/step_pages.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr int kStepsPerPage = 10000;
constexpr int kLastStepsTries = 30;
constexpr absl::Duration kLastStepsPause = absl::Milliseconds(100);

// Step records reach the store in batches, the last ones a moment after their job has ended: true
// as long as the job is known to have done more steps than `after`.
bool LastStepsAreOnTheirWay(ControlClient& client, const std::string& job_id, int64_t after) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  const absl::StatusOr<v1::Job> job = client.GetJob(request);
  return job.ok() && job->state() == v1::JOB_STATE_SUCCEEDED &&
         std::max(after, job->first_step()) < job->step();
}

}  // namespace

absl::Status ForEachStepPage(ControlClient& client, const std::string& job_id, int64_t after,
                             const std::function<void(const std::vector<v1::StepRecord>&)>& use) {
  v1::ListStepsRequest request;
  request.set_job_id(job_id);
  request.set_after_step(after);
  request.set_page_size(kStepsPerPage);
  for (int tries = 0; tries < kLastStepsTries;) {
    VITSCALE_ASSIGN_OR_RETURN(const v1::ListStepsResponse page, client.ListSteps(request));
    if (!page.steps().empty()) {
      use({page.steps().begin(), page.steps().end()});
      request.set_after_step(page.steps().rbegin()->step());
    }
    if (page.more()) continue;
    if (!LastStepsAreOnTheirWay(client, job_id, request.after_step())) break;
    absl::SleepFor(kLastStepsPause);
    ++tries;
  }
  return absl::OkStatus();
}

}  // namespace vitscale
