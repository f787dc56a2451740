#include "worker/trainer/engine/replica.h"

#include <cmath>
#include <limits>
#include <utility>

#include "kernels/base/bf16.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"
#include "worker/model/vit.h"

namespace vitscale {
namespace {

template <typename T>
absl::Span<const std::byte> AsBytes(const std::vector<T>& values) {
  return {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Replica>> Replica::Create(const BackendOptions& options,
                                                         const Plan& plan,
                                                         const OptimizerConfig& optimizer) {
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, CreateBackend(options));
  VITSCALE_RETURN_IF_ERROR(backend->Allocate(plan.arena_bytes));
  auto replica = std::unique_ptr<Replica>(new Replica(std::move(backend), plan, optimizer));
  VITSCALE_RETURN_IF_ERROR(WriteConstants(replica->plan_.layout, *replica->backend_));
  const ModelLayout& layout = replica->plan_.layout;
  if (layout.training) {
    VITSCALE_ASSIGN_OR_RETURN(replica->update_,
                              replica->backend_->Prepare(BuildUpdate(layout, optimizer)));
  }
  VITSCALE_ASSIGN_OR_RETURN(replica->prepare_, replica->backend_->Prepare(BuildPrepare(layout)));
  VITSCALE_ASSIGN_OR_RETURN(replica->digest_, replica->backend_->Prepare(BuildDigest(layout)));
  return replica;
}

absl::StatusOr<PreparedProgram*> Replica::StepProgramFor(bool first, bool last) {
  for (StepProgram& step : steps_) {
    if (step.first == first && step.last == last) return step.program.get();
  }
  VITSCALE_ASSIGN_OR_RETURN(auto program,
                            backend_->Prepare(BuildStep(plan_.layout, MicroBatch{first, last})));
  steps_.push_back({first, last, std::move(program)});
  return steps_.back().program.get();
}

absl::Status Replica::PrepareSteps(int64_t count) {
  for (int64_t number = 0; number < count; ++number) {
    VITSCALE_RETURN_IF_ERROR(StepProgramFor(number == 0, number == count - 1).status());
  }
  return absl::OkStatus();
}

uint64_t Replica::choices() const {
  uint64_t all = 0;
  for (const StepProgram& step : steps_) {
    if (const uint64_t chosen = step.program->choices(); chosen != 0) {
      all = CombineHash(all, chosen);
    }
  }
  return all;
}

// ---- a step
// ------------------------------------------------------------------------------------------------------

absl::Status Replica::RefreshWeights() {
  if (weights_current_) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(backend_->Run(*prepare_, {}, nullptr));
  weights_current_ = true;
  return absl::OkStatus();
}

absl::Status Replica::WriteInput(const Batch& batch, bool with_valid) {
  const InputViews& input = plan_.layout.input;
  VITSCALE_RETURN_IF_ERROR(backend_->Write(input.images, AsBytes(batch.images)));
  VITSCALE_RETURN_IF_ERROR(backend_->Write(input.augment, AsBytes(batch.augment)));
  VITSCALE_RETURN_IF_ERROR(backend_->Write(input.labels.ids, AsBytes(batch.labels)));
  if (with_valid) VITSCALE_RETURN_IF_ERROR(backend_->Write(input.valid, AsBytes(batch.valid)));
  return absl::OkStatus();
}

absl::Status Replica::RunMicroBatch(const Batch& batch, int64_t number, int64_t count,
                                    MarkerSink* sink) {
  VITSCALE_ASSIGN_OR_RETURN(PreparedProgram * program,
                            StepProgramFor(number == 0, number == count - 1));
  VITSCALE_RETURN_IF_ERROR(RefreshWeights());
  VITSCALE_RETURN_IF_ERROR(WriteInput(batch, /*with_valid=*/false));
  return backend_->Run(*program, {}, sink);
}

absl::StatusOr<StepSums> Replica::Sums() {
  StepSums sums;
  VITSCALE_ASSIGN_OR_RETURN(sums.loss, ReadScalar<double>(plan_.layout.statistics.loss_sum));
  VITSCALE_ASSIGN_OR_RETURN(sums.correct, ReadScalar<int64_t>(plan_.layout.statistics.correct));
  return sums;
}

absl::Span<float> Replica::BucketValues(int bucket) {
  const Bucket& slice = plan_.layout.buckets[bucket];
  absl::Span<std::byte> arena = backend_->HostBytes(Arena::kGradients);
  if (arena.empty()) arena = backend_->DeviceBytes(Arena::kGradients);
  const absl::Span<std::byte> bytes = arena.subspan(slice.offset_bytes, slice.bytes);
  return absl::MakeSpan(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
}

absl::Status Replica::SpoilBucket(int bucket) {
  const float value = std::numeric_limits<float>::quiet_NaN();
  const TensorView first{
      "gradient", Arena::kGradients, plan_.layout.buckets[bucket].offset_bytes, DType::kF32, {1}};
  VITSCALE_RETURN_IF_ERROR(backend_->Write(first, AsBytes(std::vector<float>{value})));
  return ReadScalar<float>(first).status();  // a device may write later; the sum begins now
}

absl::StatusOr<UpdateNorms> Replica::Update(const StepScalars& scalars) {
  weights_current_ = false;
  VITSCALE_RETURN_IF_ERROR(backend_->Run(*update_, scalars, nullptr));
  weights_current_ = true;  // the update prepares what it wrote
  const StatisticsViews& statistics = plan_.layout.statistics;
  UpdateNorms norms;
  VITSCALE_ASSIGN_OR_RETURN(norms.gradient, ReadScalar<double>(statistics.gradient_square_sum));
  VITSCALE_ASSIGN_OR_RETURN(norms.parameter, ReadScalar<double>(statistics.parameter_square_sum));
  VITSCALE_ASSIGN_OR_RETURN(norms.update, ReadScalar<double>(statistics.update_square_sum));
  norms.gradient = std::sqrt(norms.gradient);
  norms.parameter = std::sqrt(norms.parameter);
  norms.update = std::sqrt(norms.update);
  return norms;
}

// ---- evaluation
// --------------------------------------------------------------------------------------------------

absl::StatusOr<Replica::EvalProgram*> Replica::EvalProgramFor(bool features_only, float range_min,
                                                              float range_max) {
  for (const auto& eval : evals_) {
    if (eval->features_only == features_only && eval->range_min == range_min &&
        eval->range_max == range_max) {
      return eval.get();
    }
  }
  ModelLayout layout = plan_.layout;
  layout.range_min = range_min;
  layout.range_max = range_max;
  auto eval = std::make_unique<EvalProgram>();
  eval->range_min = range_min;
  eval->range_max = range_max;
  eval->features_only = features_only;
  Program program;
  if (features_only) {
    FeatureProgram built = BuildFeatures(layout);
    program = std::move(built.program);
    eval->features = std::move(built.features);
  } else {
    program = BuildEval(layout, /*first=*/true);
  }
  VITSCALE_ASSIGN_OR_RETURN(eval->program, backend_->Prepare(std::move(program)));
  evals_.push_back(std::move(eval));
  return evals_.back().get();
}

absl::Status Replica::PrepareEval(float range_min, float range_max) {
  VITSCALE_ASSIGN_OR_RETURN(eval_, EvalProgramFor(false, range_min, range_max));
  return absl::OkStatus();
}

absl::Status Replica::PrepareFeatures(float range_min, float range_max) {
  VITSCALE_ASSIGN_OR_RETURN(features_, EvalProgramFor(true, range_min, range_max));
  return absl::OkStatus();
}

absl::StatusOr<EvalSums> Replica::Evaluate(const Batch& batch) {
  VITSCALE_RETURN_IF_ERROR(RefreshWeights());
  VITSCALE_RETURN_IF_ERROR(WriteInput(batch, /*with_valid=*/true));
  VITSCALE_RETURN_IF_ERROR(backend_->Run(*eval_->program, {}, nullptr));
  EvalSums sums;
  VITSCALE_ASSIGN_OR_RETURN(sums.loss, ReadScalar<double>(plan_.layout.statistics.eval_loss_sum));
  VITSCALE_ASSIGN_OR_RETURN(sums.correct,
                            ReadScalar<int64_t>(plan_.layout.statistics.eval_correct));
  return sums;
}

int64_t Replica::feature_width() const {
  const ModelConfig& model = plan_.layout.model;
  return model.representation_size > 0 ? model.representation_size : model.width;
}

absl::Status Replica::Features(const Batch& batch, absl::Span<float> features) {
  VITSCALE_RETURN_IF_ERROR(RefreshWeights());
  VITSCALE_RETURN_IF_ERROR(WriteInput(batch, /*with_valid=*/false));
  VITSCALE_RETURN_IF_ERROR(backend_->Run(*features_->program, {}, nullptr));
  const TensorView& view = features_->features;
  if (view.dtype == DType::kF32) {
    return backend_->Read(view, absl::MakeSpan(reinterpret_cast<std::byte*>(features.data()),
                                               features.size() * sizeof(float)));
  }
  rounded_features_.resize(features.size());
  VITSCALE_RETURN_IF_ERROR(
      backend_->Read(view, absl::MakeSpan(reinterpret_cast<std::byte*>(rounded_features_.data()),
                                          rounded_features_.size() * sizeof(uint16_t))));
  for (size_t i = 0; i < features.size(); ++i) features[i] = FromBf16(rounded_features_[i]);
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<T> Replica::ReadScalar(const TensorView& view) {
  T value{};
  VITSCALE_RETURN_IF_ERROR(
      backend_->Read(view, absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof(value))));
  return value;
}

}  // namespace vitscale
