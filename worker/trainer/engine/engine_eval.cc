// Evaluations: their sets, and one measurement. See engine.h.

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "worker/eval/classify.h"
#include "worker/eval/few_shot.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {
namespace {

constexpr absl::Duration kEvalTimeout = absl::Hours(1);  // the slowest rank's share
constexpr int kFewShotClassesMax = 1'000'000;

// An abort ends an evaluation between batches.
class AbortableModel : public EvalModel {
 public:
  AbortableModel(EvalModel& model, std::function<bool()> aborted)
      : model_(model), aborted_(std::move(aborted)) {}
  absl::StatusOr<EvalSums> Evaluate(const Batch& batch) override {
    if (aborted_()) return absl::CancelledError("aborted");
    return model_.Evaluate(batch);
  }

 private:
  EvalModel& model_;
  const std::function<bool()> aborted_;
};

// Errors of a device are INTERNAL, those of a source say what a file is; the rest would come again.
Fault FaultOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnavailable:
      return Fault::kData;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
      return Fault::kConfiguration;
    default:
      return Fault::kDevice;
  }
}

// A class gives all it has; that deserves a word, since the result is then of fewer shots.
void WarnOfFewImages(const std::string& noun, const FewShotConfig& config,
                     const ImageSource& support) {
  std::vector<int64_t> images(support.classes_seen());
  for (int64_t i = 0; i < support.size(); ++i) ++images[support.label(i)];
  const int most = *std::max_element(config.shots.begin(), config.shots.end());
  const auto fewest = std::min_element(images.begin(), images.end());
  if (*fewest >= most) return;
  VITSCALE_LOG(WARNING) << noun << ": " << most << " shots are wanted, but class "
                        << fewest - images.begin() << " of the support has " << *fewest
                        << " images; where there are fewer, all are taken";
}

}  // namespace

// The labels of a few-shot support are the classes, whatever classes the head has. A synthetic set
// needs to be told.
absl::StatusOr<Engine::EvalSet> Engine::OpenEval(const EvalConfig& eval,
                                                 SourceRequest request) const {
  const std::string noun = absl::StrCat("evals '", eval.name, "'");
  const auto open = [&](const DataSourceConfig& config) {
    SourceRequest asked = request;
    if (eval.few_shot && config.format != DataFormat::kSynthetic) {
      asked.classes = kFewShotClassesMax;
    }
    return OpenSource(*options_.fs, options_.setup.data_roots, config, asked);
  };
  EvalSet set;
  set.preprocess = eval.preprocess;
  request.ops = eval.preprocess.ops;
  auto source = open(eval.data);
  if (!source.ok()) return Annotate(source.status(), noun);
  set.source = *std::move(source);
  absl::Status same;
  if (eval.few_shot) {
    auto support = open(eval.few_shot->support);
    if (!support.ok()) return Annotate(support.status(), absl::StrCat(noun, ": support"));
    set.support = *std::move(support);
    same = CheckSameClasses(*set.support, *set.source, "its support");
    if (same.ok()) same = CheckFewShotLabels(*set.support, *set.source);
    if (same.ok()) WarnOfFewImages(noun, *eval.few_shot, *set.support);
  } else if (train_) {
    same = CheckSameClasses(*train_, *set.source);
  }
  if (!same.ok()) return Annotate(same, noun);
  return set;
}

// All of them before the first step: whatever an evaluation needs of the device is there, or the
// job does not begin.
absl::Status Engine::PrepareEvals() {
  for (size_t i = 0; i < evals_.size(); ++i) {
    const EvalConfig& eval = job_.evals[i];
    const auto& [min, max] = std::pair(eval.preprocess.range_min, eval.preprocess.range_max);
    const absl::Status prepared =
        eval.few_shot ? replica_->PrepareFeatures(min, max) : replica_->PrepareEval(min, max);
    if (!prepared.ok()) return Annotate(prepared, absl::StrCat("evals '", eval.name, "'"));
  }
  return absl::OkStatus();
}

absl::Status Engine::MeasureOwnHead(const EvalSet& set, link::EvalRecord* record,
                                    bool* collective_failed) {
  VITSCALE_RETURN_IF_ERROR(
      replica_->PrepareEval(set.preprocess.range_min, set.preprocess.range_max));
  AbortableModel model(*replica_, [this] { return aborted(); });
  VITSCALE_ASSIGN_OR_RETURN(
      const ClassifyResult result,
      Classify(*set.source, replica_->plan().request.batch_micro, model, *collective(),
               kEvalTimeout, collective_failed, options_.setup.threads));
  if (evaluates() && !std::isfinite(result.loss)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the loss is ", result.loss, ": the weights of the model are broken"));
  }
  record->eval_images = result.images;
  record->values = {{"loss", result.loss}, {"top1", result.top1}};
  return absl::OkStatus();
}

absl::Status Engine::MeasureFewShot(const FewShotConfig& config, const EvalSet& set,
                                    link::EvalRecord* record, bool* collective_failed) {
  VITSCALE_RETURN_IF_ERROR(
      replica_->PrepareFeatures(set.preprocess.range_min, set.preprocess.range_max));
  FewShotOptions options;
  options.shots = config.shots;
  options.l2 = config.l2;
  options.seeds = config.seeds;
  options.batch = replica_->plan().request.batch_micro;
  options.cores = options_.setup.threads;
  options.timeout = kEvalTimeout;
  options.cancelled = [this] { return aborted(); };
  VITSCALE_ASSIGN_OR_RETURN(
      const FewShotResult result,
      FewShot(options, *set.support, *set.source, *replica_, *collective(), collective_failed));
  record->eval_images = result.images;
  record->values = FewShotValues(options, result);
  return absl::OkStatus();
}

CoreEvent Engine::DoEvaluate(const EvaluateOp& op) {
  Evaluated done;
  const absl::Time began = options_.clock->Monotonic();
  const EvalSet& set = evals_[op.index];
  const EvalConfig& eval = job_.evals[op.index];
  if (faults_.At("evaluate", PlaceOf(op.step), "fail_collective")) collective()->Abort();
  bool collective_failed = false;
  absl::Status status = eval.few_shot
                            ? MeasureFewShot(*eval.few_shot, set, &done.record, &collective_failed)
                            : MeasureOwnHead(set, &done.record, &collective_failed);
  if (!status.ok()) {
    status = Annotate(status, absl::StrCat("evaluation '", eval.name, "'"));
    static_cast<Outcome&>(done) = collective_failed || absl::IsCancelled(status)
                                      ? CollectiveOutcome(status)
                                      : Outcome{status, FaultOf(status), {}};
    return done;
  }
  done.record.name = eval.name;
  done.record.step = op.step;
  done.record.images = ImagesAfter(op.step);
  done.record.flops = static_cast<double>(done.record.images) * replica_->plan().flops.training();
  done.record.time = options_.clock->Now();
  done.record.seconds = Seconds(began);
  done.record.final = op.final;
  exchange_left_ = options_.clock->Monotonic();
  return done;
}

}  // namespace vitscale
