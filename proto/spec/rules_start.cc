// kind and from: what a job does, and what it starts from.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/spec/checkpoint_ref.h"
#include "proto/spec/message_text.h"
#include "proto/spec/rules.h"

namespace vitscale {
namespace {

// Where both are known in steps. Epochs are counted by the workers, who check it again.
void CheckTotalIsBeyond(const v1::JobSpec& spec, const CheckpointRef& from, Checker* c) {
  const auto total = ParseLength(spec.schedule().total());
  if (!total.ok() || total->unit == LengthUnit::kEpochs) return;
  const auto steps = LengthInSteps(*total, std::max(1, spec.batch().global()), 0);
  if (!steps.ok() || *steps > from.step) return;
  c->Fail(
      "schedule.total",
      absl::StrCat("was ", JsonQuote(spec.schedule().total()), ", wanted more than the ", from.step,
                   " steps that are done in \"from\": it counts from step 0 of the "
                   "first run"));
}

}  // namespace

void CheckStart(const v1::JobSpec& spec, Checker* c) {
  const bool evaluate = spec.kind() == v1::JOB_KIND_EVALUATE;
  if (spec.from().empty()) {
    if (evaluate) c->Fail("from", "is missing, wanted the checkpoint to evaluate");
  } else if (const auto from = ParseCheckpointRef(spec.from()); !from.ok()) {
    c->Fail("from", std::string(from.status().message()));
  } else if (!evaluate) {
    CheckTotalIsBeyond(spec, *from, c);
  }
  if (evaluate && spec.evals().empty()) {
    c->Fail("evals", "is empty, wanted at least one evaluation for kind evaluate");
  }
}

}  // namespace vitscale
