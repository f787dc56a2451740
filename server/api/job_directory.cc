#include "server/api/job_directory.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "server/core/goodput.h"
#include "server/core/job_table.h"

namespace vitscale {
namespace {

constexpr int kPageDefault = 50;
constexpr int kPageMax = 1000;
constexpr char kTokenPrefix[] = "before-";
constexpr size_t kNamedMax = 5;  // of several jobs with one name

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

absl::Status SeveralAreNamed(const std::string& name, std::vector<std::string> jobs) {
  const size_t all = jobs.size();
  jobs.resize(std::min(all, kNamedMax));
  return absl::FailedPreconditionError(
      absl::StrCat(all, " jobs named '", name, "' have not ended: give the id of one: ",
                   absl::StrJoin(jobs, ", "), all > jobs.size() ? ", …" : ""));
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
  std::shared_ptr<const JobRow> ended, going_on;
  std::vector<std::string> named;  // those that have not ended, newest first
  for (auto it = by_number_.rbegin(); it != by_number_.rend(); ++it) {
    const std::shared_ptr<const JobRow>& row = by_id_.at(it->second);
    const v1::Job& job = row->job();
    if (job.spec().name() != id_or_name) continue;
    std::shared_ptr<const JobRow>& newest = IsTerminal(job.state()) ? ended : going_on;
    if (newest == nullptr) newest = row;
    if (!IsTerminal(job.state())) {
      named.push_back(absl::StrCat(job.id(), " (", JobStateName(job.state()), ")"));
    }
  }
  if (named.size() > 1) return SeveralAreNamed(id_or_name, std::move(named));
  if (going_on != nullptr) return going_on;
  if (ended != nullptr) return ended;
  return absl::NotFoundError(absl::StrCat("no job '", id_or_name, "'"));
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
