#include "worker/config/start_check.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

absl::Status CheckSame(absl::string_view what, const std::string& is, const std::string& parent) {
  if (is == parent) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is ", is, ", the checkpoint's run has ", parent));
}

std::string NameOf(PositionKind kind) {
  return kind == PositionKind::kSincos2d ? "sincos2d" : "learned";
}

std::string NameOf(OptimizerKind kind) {
  return kind == OptimizerKind::kAdamW ? "adamw"
         : kind == OptimizerKind::kSgd ? "sgd"
                                       : "adafactor";
}

absl::Status CheckSameShape(const ModelConfig& is, const ModelConfig& parent) {
  struct Field {
    const char* name;
    int64_t is, parent;
  };
  for (const Field& f :
       {Field{"patch", is.patch, parent.patch}, Field{"width", is.width, parent.width},
        Field{"depth", is.depth, parent.depth}, Field{"heads", is.heads, parent.heads},
        Field{"mlp_width", is.mlp_width, parent.mlp_width},
        Field{"image_size", is.image_size, parent.image_size},
        Field{"channels", is.channels, parent.channels},
        Field{"classes", is.classes, parent.classes},
        Field{"representation_size", is.representation_size, parent.representation_size}}) {
    VITSCALE_RETURN_IF_ERROR(CheckSameNumber(absl::StrCat("model: ", f.name), f.is, f.parent));
  }
  VITSCALE_RETURN_IF_ERROR(
      CheckSame("model.pool", std::string(PoolName(is.pool)), std::string(PoolName(parent.pool))));
  return CheckSame("model.position_embedding", NameOf(is.position), NameOf(parent.position));
}

}  // namespace

absl::Status CheckSameNumber(absl::string_view what, int64_t is, int64_t parent) {
  return CheckSame(what, absl::StrCat(is), absl::StrCat(parent));
}

absl::Status CheckStart(const JobConfig& parent, const JobConfig& job, StartKind kind) {
  VITSCALE_RETURN_IF_ERROR(CheckSameShape(job.model, parent.model));
  if (kind != StartKind::kBranch) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(
      CheckSame("optimizer.name", NameOf(job.optimizer.kind), NameOf(parent.optimizer.kind)));
  VITSCALE_RETURN_IF_ERROR(CheckSameNumber("batch.global", job.batch_global, parent.batch_global));
  return CheckSame("seed", absl::StrCat(job.seed), absl::StrCat(parent.seed));
}

}  // namespace vitscale
