#include "server/api/job_directory.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "server/core/goodput.h"

namespace vitscale {
namespace {

constexpr int kPageDefault = 50;
constexpr int kPageMax = 1000;
constexpr char kTokenPrefix[] = "before-";

bool Matches(const v1::Job& job, const v1::ListJobsRequest& request) {
  if (!request.name().empty() && job.spec().name() != request.name()) return false;
  if (request.states_size() > 0 && std::find(request.states().begin(), request.states().end(),
                                             job.state()) == request.states().end()) {
    return false;
  }
  for (const auto& [key, value] : request.labels()) {
    const auto it = job.spec().labels().find(key);
    if (it == job.spec().labels().end() || it->second != value) return false;
  }
  return true;
}

}  // namespace

v1::Job JobAt(const JobRow& row, absl::Time now) {
  v1::Job job = row.job();
  *job.mutable_goodput() = GoodputAt(row, now);
  return job;
}

void JobDirectory::Publish(JobRow row) {
  auto shared = std::make_shared<const JobRow>(std::move(row));
  absl::MutexLock lock(&mutex_);
  by_number_[shared->number()] = shared->job().id();
  by_id_[shared->job().id()] = std::move(shared);
}

absl::StatusOr<std::shared_ptr<const JobRow>> JobDirectory::Find(
    const std::string& id_or_name) const {
  absl::MutexLock lock(&mutex_);
  if (const auto it = by_id_.find(id_or_name); it != by_id_.end()) return it->second;
  std::vector<std::string> ids;
  std::string evaluation;
  for (auto it = by_number_.rbegin(); it != by_number_.rend() && ids.size() < 4; ++it) {
    const v1::JobSpec& spec = by_id_.at(it->second)->job().spec();
    if (spec.name() != id_or_name) continue;
    if (spec.kind() != v1::JOB_KIND_EVALUATE) {
      ids.push_back(it->second);
    } else if (evaluation.empty()) {
      evaluation = it->second;
    }
  }
  if (ids.empty() && !evaluation.empty()) ids.push_back(evaluation);
  if (ids.size() == 1) return by_id_.at(ids[0]);
  if (ids.empty()) return absl::NotFoundError(absl::StrCat("no job '", id_or_name, "'"));
  return absl::FailedPreconditionError(absl::StrCat("several jobs are named '", id_or_name,
                                                    "': give an id, for example ",
                                                    absl::StrJoin(ids, ", ")));
}

absl::StatusOr<v1::ListJobsResponse> JobDirectory::List(const v1::ListJobsRequest& request,
                                                        absl::Time now) const {
  if (request.page_size() < 0 || request.page_size() > kPageMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size was ", request.page_size(), ", wanted 1 to ", kPageMax));
  }
  const int page = request.page_size() == 0 ? kPageDefault : request.page_size();
  int64_t before = std::numeric_limits<int64_t>::max();
  if (!request.page_token().empty()) {
    absl::string_view token = request.page_token();
    if (!absl::ConsumePrefix(&token, kTokenPrefix) || !absl::SimpleAtoi(token, &before)) {
      return absl::InvalidArgumentError("page_token is none that this coordinator gave");
    }
  }
  v1::ListJobsResponse response;
  absl::MutexLock lock(&mutex_);
  auto it = by_number_.lower_bound(before);
  while (it != by_number_.begin()) {
    --it;
    const JobRow& row = *by_id_.at(it->second);
    if (!Matches(row.job(), request)) continue;
    if (response.jobs_size() == page) {
      // The next page begins with this job: its token is the number just above it.
      response.set_next_page_token(absl::StrCat(kTokenPrefix, row.number() + 1));
      break;
    }
    v1::Job& job = *response.add_jobs();
    job = row.job();
    job.clear_goodput();
    job.clear_last_evals();
  }
  return response;
}

}  // namespace vitscale
