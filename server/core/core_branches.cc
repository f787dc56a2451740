// Jobs that begin with a checkpoint of another job: where they start, and that the other job's
// retention leaves that checkpoint as long as it is needed. The row of the job that needs it says
// so, so it holds from the commit of the submission on, and over a restart.

#include "absl/strings/str_cat.h"
#include "proto/spec/checkpoint_ref.h"
#include "server/core/core.h"

namespace vitscale {
namespace {

std::string JobOf(const std::string& checkpoint) {
  return checkpoint.substr(0, checkpoint.find('/'));
}

}  // namespace

void Core::BeginFrom(JobEntry& job) {
  v1::Job& row = *job.row.mutable_job();
  const auto from = ParseCheckpointRef(row.spec().from());
  if (!from.ok()) return;  // from its seed
  row.set_first_step(from->step);
  row.set_step(from->step);
  if (row.spec().kind() == v1::JOB_KIND_EVALUATE) row.set_total_steps(from->step);
  job.row.set_held_checkpoint(from->id());
  Hold(from->id());
  TouchParent(from->id());
}

void Core::Hold(const std::string& checkpoint) { ++held_[JobOf(checkpoint)][checkpoint]; }

void Core::LetGo(JobEntry& job) {
  const std::string checkpoint = job.row.held_checkpoint();
  if (checkpoint.empty()) return;
  job.row.clear_held_checkpoint();
  MarkDirty(job);
  std::map<std::string, int>& held = held_[JobOf(checkpoint)];
  if (--held[checkpoint] <= 0) held.erase(checkpoint);
  if (held.empty()) held_.erase(JobOf(checkpoint));
  TouchParent(checkpoint);
}

// Its ranks learn with their next desired state what they must leave.
void Core::TouchParent(const std::string& checkpoint) {
  if (const auto it = jobs_.find(JobOf(checkpoint)); it != jobs_.end()) TouchMembers(it->second);
}

// Pinned by users, or needed by other jobs.
std::vector<std::string> Core::KeptCheckpoints(const std::string& job_id) const {
  std::set<std::string> kept;
  if (const auto it = pinned_.find(job_id); it != pinned_.end()) kept = it->second;
  if (const auto it = held_.find(job_id); it != held_.end()) {
    for (const auto& [checkpoint, count] : it->second) kept.insert(checkpoint);
  }
  return {kept.begin(), kept.end()};
}

}  // namespace vitscale
