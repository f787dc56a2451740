#include "server/api/start_point.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "proto/spec/checkpoint_ref.h"
#include "proto/spec/job_spec.h"
#include "worker/config/job_config.h"
#include "worker/config/start_check.h"

namespace vitscale {
namespace {

// The job whose checkpoints lie in that folder; null: none that is known here.
std::shared_ptr<const JobRow> OwnerOf(const JobDirectory& jobs, const CheckpointRef& from) {
  const auto row = jobs.Find(from.job);
  const bool is_its = row.ok() && (*row)->job().id() == from.job &&
                      (*row)->job().spec().checkpoint().dir() == from.dir;
  return is_its ? *row : nullptr;
}

absl::StatusOr<v1::CheckpointInfo> NewestOf(ControlStore& store, const v1::Job& parent) {
  VITSCALE_ASSIGN_OR_RETURN(const auto checkpoints, store.Checkpoints(parent.id()));
  for (const v1::CheckpointInfo& info : checkpoints) {
    if (!info.deleted()) return info;
  }
  return absl::FailedPreconditionError(absl::StrCat("job ", parent.id(), " (", parent.spec().name(),
                                                    ") has no checkpoint",
                                                    checkpoints.empty() ? " yet" : " any more"));
}

absl::StatusOr<v1::CheckpointInfo> CheckpointOf(ControlStore& store, const v1::Job& parent,
                                                const std::string& name) {
  const std::string id = absl::StrCat(parent.id(), "/", name);
  absl::StatusOr<v1::CheckpointInfo> info = store.Checkpoint(id);
  if (absl::IsNotFound(info.status())) {
    return absl::NotFoundError(absl::StrCat("no checkpoint '", id, "'; `vitscale checkpoints list ",
                                            parent.id(), "` shows those of the job"));
  }
  if (info.ok() && info->deleted()) {
    return absl::FailedPreconditionError(
        absl::StrCat("checkpoint '", id, "' has been deleted by retention"));
  }
  return info;
}

// The micro-batch decides the order of sums.
void InheritMicroBatch(const v1::JobSpec& parent, v1::JobSpec* spec) {
  v1::Batch& batch = *spec->mutable_batch();
  if (spec->kind() == v1::JOB_KIND_EVALUATE || batch.micro() != 0 || parent.batch().micro() <= 0 ||
      batch.global() != parent.batch().global()) {
    return;
  }
  const int workers = std::max(1, spec->resources().workers().max());
  if (batch.global() / parent.batch().micro() >= workers) batch.set_micro(parent.batch().micro());
}

}  // namespace

absl::Status CompleteStart(const JobDirectory& jobs, ControlStore& store, v1::JobSpec* spec) {
  if (spec->from().empty()) return absl::OkStatus();
  auto from = ParseCheckpointRef(spec->from());
  if (!from.ok()) return absl::OkStatus();  // the rules of the spec say it, with all else
  std::shared_ptr<const JobRow> parent;
  if (from->complete()) {
    parent = OwnerOf(jobs, *from);
    if (parent == nullptr) return absl::OkStatus();
  } else {
    auto row = jobs.Find(from->job);
    if (!row.ok()) return Annotate(row.status(), "from");
    parent = *std::move(row);
  }
  const v1::Job& job = parent->job();
  const auto info =
      from->name.empty() ? NewestOf(store, job) : CheckpointOf(store, job, from->name);
  if (!info.ok()) return Annotate(info.status(), "from");
  spec->set_from(JoinPath(job.spec().checkpoint().dir(), info->id()));
  InheritMicroBatch(job.spec(), spec);
  return absl::OkStatus();
}

absl::Status CheckStartPoint(const JobDirectory& jobs, const v1::JobSpec& spec) {
  if (spec.from().empty()) return absl::OkStatus();
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointRef from, ParseCheckpointRef(spec.from()));
  const auto parent = OwnerOf(jobs, from);
  if (parent == nullptr) return absl::OkStatus();
  const auto before = JobConfigFromCanonical(SpecBytes(parent->job().spec()));
  if (!before.ok()) return absl::OkStatus();  // of an older version; the workers see the tensors
  VITSCALE_ASSIGN_OR_RETURN(const JobConfig job, JobConfigFromCanonical(SpecBytes(spec)));
  const StartKind kind =
      job.kind == JobKind::kEvaluate ? StartKind::kEvaluation : StartKind::kBranch;
  return Annotate(CheckStart(*before, job, kind), "from");
}

}  // namespace vitscale
