// Jobs as readers see them: committed rows, published by the core's thread, read by any.

#ifndef SERVER_API_JOB_DIRECTORY_H_
#define SERVER_API_JOB_DIRECTORY_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/core/events.h"
#include "vitscale/v1/control_service.pb.h"

namespace vitscale {

// The row's job with goodput up to `now`.
v1::Job JobAt(const JobRow& row, absl::Time now);

class JobDirectory {
 public:
  void Publish(JobRow row);

  // By id, or by name: the one job of that name that has not ended; where all have, the newest.
  // NOT_FOUND; FAILED_PRECONDITION, naming them, where several of that name have not ended.
  absl::StatusOr<std::shared_ptr<const JobRow>> Find(const std::string& id_or_name) const;
  // A page of jobs, newest first. INVALID_ARGUMENT for a page token that no answer gave.
  absl::StatusOr<v1::ListJobsResponse> List(const v1::ListJobsRequest& request,
                                            absl::Time now) const;

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<const JobRow>> by_id_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, std::string> by_number_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vitscale

#endif  // SERVER_API_JOB_DIRECTORY_H_
