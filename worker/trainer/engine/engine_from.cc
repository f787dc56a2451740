// Starting from a checkpoint of another job: branches of a run, and evaluations. See engine.h.
//
// Only a job without checkpoints of its own needs the parent's: it may be gone afterwards.

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/config/start_check.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {

// What is wrong with the parent stays wrong: nobody else writes it again. Only a disk may recover.
Fault Engine::FaultOfStart(const absl::Status& status) {
  if (absl::IsAborted(status)) return Fault::kDevice;
  const bool disk = absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
  return disk ? Fault::kStorage : Fault::kConfiguration;
}

int64_t Engine::ImagesAfter(int64_t step) const {
  return evaluates() ? from_->manifest.images : step * job_.batch_global;
}

Outcome Engine::OpenFrom() {
  if (!job_.from) return {};
  const CheckpointRef& from = *job_.from;
  absl::Status status;
  if (!from.complete()) {
    status = absl::InvalidArgumentError(
        absl::StrCat("was '", from.Text(),
                     "', wanted \"<dir>/<job id>/<checkpoint name>\" below a checkpoint "
                     "root: only a coordinator knows where the checkpoints of its jobs lie"));
  } else if (evaluates()) {
    status = OpenParent();
  } else if (from.job == job_id_) {
    status = absl::InvalidArgumentError(absl::StrCat(
        "'", from.Text(), "' is a checkpoint of this very job; give the branch another name"));
  } else if (lengths_.total_steps <= from.step) {
    status = absl::InvalidArgumentError(absl::StrCat("schedule.total is ", lengths_.total_steps,
                                                     " steps, wanted more than the ", from.step,
                                                     " that are done in '", from.Text(), "'"));
  } else if (const auto usable = store_->Usable(); !usable.ok()) {
    return {usable.status(), Fault::kStorage, {}};
  } else if (usable->empty()) {
    status = OpenParent();
  }
  if (status.ok()) return {};
  const Fault fault = FaultOfStart(status);
  return {Annotate(std::move(status), "from"), fault, {}};
}

absl::Status Engine::OpenParent() {
  const CheckpointRef& from = *job_.from;
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointName name, CheckpointName::Parse(from.name));
  VITSCALE_ASSIGN_OR_RETURN(
      const std::string path,
      ResolveBelow(*options_.fs, options_.setup.checkpoint_roots, from.Text(), MustExist::kYes));
  const std::string job_path = DirectoryName(path);
  VITSCALE_ASSIGN_OR_RETURN(
      CheckpointStore store,
      CheckpointStore::Open(*options_.fs, DirectoryName(job_path), BaseName(job_path)));
  auto manifest = store.ReadManifest(name);
  if (!manifest.ok()) {
    return Annotate(manifest.status(), absl::StrCat("checkpoint '", path, "'"));
  }
  VITSCALE_RETURN_IF_ERROR(CheckParent(*manifest));
  from_ = Parent{std::move(store), *std::move(manifest), from.id()};
  return evaluates() ? CheckHeadsClasses() : absl::OkStatus();
}

// A class is a place in the order of folders: with other folders every label would mean something
// else.
absl::Status Engine::CheckHeadsClasses() const {
  for (size_t i = 0; i < evals_.size(); ++i) {
    if (evals_[i].support) continue;
    const std::string noun = absl::StrCat("evals '", job_.evals[i].name, "'");
    VITSCALE_RETURN_IF_ERROR(
        Annotate(CheckClassNames(from_->manifest.class_names, *evals_[i].source), noun));
    if (from_->manifest.class_names == 0 && ClassNamesHash(*evals_[i].source) != 0) {
      VITSCALE_LOG(WARNING) << noun
                            << ": the checkpoint does not say which class folders its head "
                               "was trained on; class 0 is taken to be '"
                            << evals_[i].source->class_names().front() << "', and so on by name";
    }
  }
  return absl::OkStatus();
}

// Names what differs, where the parent's job file can be read; the tensors are compared anyway.
absl::Status Engine::CheckParent(const CheckpointManifest& parent) const {
  const StartKind kind = evaluates()           ? StartKind::kEvaluation
                         : parent.weights_only ? StartKind::kFromWeights
                                               : StartKind::kBranch;
  const auto spec = ParseJobConfig(parent.spec, "manifest.yaml");
  if (spec.ok()) VITSCALE_RETURN_IF_ERROR(CheckStart(*spec, job_, kind));
  if (kind != StartKind::kBranch) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(
      CheckSameNumber("seed", static_cast<int64_t>(job_.seed), static_cast<int64_t>(parent.seed)));
  VITSCALE_RETURN_IF_ERROR(CheckSameNumber("images per step (batch.global)", job_.batch_global,
                                           parent.images / std::max<int64_t>(1, parent.name.step)));
  if (parent.train_images == 0) return absl::OkStatus();
  return CheckSameNumber("images in data.train", train_->size(), parent.train_images);
}

// Tensors go to their places as in a resumed run. Of weights alone, and for an evaluation, only the
// parameters are taken; moments are zero.
absl::Status Engine::LoadFrom(Synchronised* done) {
  if (!from_) VITSCALE_RETURN_IF_ERROR(OpenParent());
  const CheckpointManifest& manifest = from_->manifest;
  const bool parameters_only = manifest.weights_only || evaluates();
  VITSCALE_RETURN_IF_ERROR(replica_->Initialise(job_.seed));
  std::vector<TensorTarget> targets = replica_->StateTargets();
  if (parameters_only) {
    std::erase_if(targets, [](const TensorTarget& target) {
      return !absl::StartsWith(target.name, kParameterPrefix);
    });
  }
  VITSCALE_RETURN_IF_ERROR(from_->store.Read(
      manifest.name, targets, parameters_only ? ExtraTensors::kIgnore : ExtraTensors::kRefuse));
  if (!parameters_only) {
    VITSCALE_RETURN_IF_ERROR(
        Annotate(CheckDigest(manifest), absl::StrCat("checkpoint ", from_->id)));
  }
  done->step = manifest.name.step;
  parent_ = from_->id;
  if (parameters_only) return absl::OkStatus();
  const std::vector<std::string> differences = ChangedSince(manifest);
  if (!differences.empty()) {
    done->notice = absl::StrCat("branches, not bit-exact: ", absl::StrJoin(differences, "; "));
    VITSCALE_LOG(WARNING) << done->notice;
  }
  return absl::OkStatus();
}

}  // namespace vitscale
