#include "worker/config/job_config.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"
#include "proto/spec/job_spec.h"
#include "worker/config/preprocess_config.h"

namespace vitscale {
namespace {

constexpr int64_t kJobFileBytesMax = 1 << 20;

// A length of a canonical spec; empty text is zero.
Length LengthOf(const std::string& text) {
  if (text.empty()) return Length{};
  const auto length = ParseLength(text);
  VITSCALE_CHECK(length.ok()) << "canonical length \"" << text << "\"";
  return *length;
}

DataSourceConfig SourceOf(const v1::DataSource& source) {
  DataSourceConfig config;
  config.format = source.format() == v1::DATA_FORMAT_SYNTHETIC ? DataFormat::kSynthetic
                  : source.format() == v1::DATA_FORMAT_FOLDER  ? DataFormat::kFolder
                                                               : DataFormat::kIdx;
  config.path = source.path();
  config.images = source.images();
  config.labels = source.labels();
  config.synthetic_images = source.synthetic_images();
  config.take = source.take();
  return config;
}

absl::StatusOr<ModelConfig> ModelOf(const v1::Model& spec) {
  ModelConfig model;
  if (spec.has_custom()) {
    const v1::CustomShape& s = spec.custom();
    model.SetShape({s.patch(), s.width(), s.depth(), s.heads(), s.mlp_width()});
  } else {
    VITSCALE_ASSIGN_OR_RETURN(const ModelShape shape, VariantByName(spec.variant()));
    model.SetShape(shape);
  }
  model.image_size = spec.image_size();
  model.channels = spec.channels();
  model.classes = spec.classes();
  model.pool = spec.pool() == v1::POOL_GAP   ? PoolKind::kGap
               : spec.pool() == v1::POOL_CLS ? PoolKind::kCls
                                             : PoolKind::kMap;
  model.loss = spec.loss() == v1::LOSS_SOFTMAX ? LossKind::kSoftmax : LossKind::kSigmoid;
  model.position = spec.position_embedding() == v1::POSITION_EMBEDDING_SINCOS2D
                       ? PositionKind::kSincos2d
                       : PositionKind::kLearned;
  model.head_bias = spec.head_bias();
  model.representation_size = spec.representation_size();
  model.residual = spec.residual() == v1::RESIDUAL_BF16 ? DType::kBf16 : DType::kF32;
  VITSCALE_RETURN_IF_ERROR(ValidateModel(model));
  return model;
}

OptimizerConfig OptimizerOf(const v1::Optimizer& spec) {
  OptimizerConfig config;
  config.kind = spec.name() == v1::OPTIMIZER_NAME_ADAMW ? OptimizerKind::kAdamW
                : spec.name() == v1::OPTIMIZER_NAME_SGD ? OptimizerKind::kSgd
                                                        : OptimizerKind::kAdafactor;
  config.learning_rate = spec.lr();
  config.beta1 = spec.beta1();
  config.beta2_cap = spec.beta2_cap();
  config.beta2 = spec.beta2();
  config.clip_norm = spec.clip_norm();
  config.decay_body = spec.weight_decay().body();
  config.decay_head = spec.weight_decay().head();
  return config;
}

ScheduleKind ScheduleKindOf(v1::ScheduleName name) {
  switch (name) {
    case v1::SCHEDULE_NAME_COSINE:
      return ScheduleKind::kCosine;
    case v1::SCHEDULE_NAME_LINEAR:
      return ScheduleKind::kLinear;
    case v1::SCHEDULE_NAME_CONSTANT:
      return ScheduleKind::kConstant;
    default:
      return ScheduleKind::kRsqrt;
  }
}

ScheduleLengths ScheduleOf(const v1::Schedule& spec) {
  return {ScheduleKindOf(spec.name()), LengthOf(spec.warmup()), LengthOf(spec.timescale()),
          LengthOf(spec.cooldown()),   LengthOf(spec.total()),  LengthOf(spec.shift())};
}

absl::StatusOr<EvalConfig> EvalOf(const v1::Eval& spec) {
  VITSCALE_ASSIGN_OR_RETURN(const Preprocess preprocess, PreprocessFromText(spec.preprocess()));
  EvalConfig eval{spec.name(), {}, SourceOf(spec.data()), preprocess, LengthOf(spec.every())};
  if (spec.kind() == v1::EVAL_KIND_FEWSHOT) {
    eval.few_shot = FewShotConfig{SourceOf(spec.support()),
                                  {spec.shots().begin(), spec.shots().end()},
                                  {spec.l2().begin(), spec.l2().end()},
                                  spec.seeds()};
  }
  return eval;
}

Precision PrecisionOf(v1::Precision precision) {
  switch (precision) {
    case v1::PRECISION_BF16:
      return Precision::kBf16;
    case v1::PRECISION_F32:
      return Precision::kF32;
    default:
      return Precision::kAuto;
  }
}

RecomputeLevel RecomputeOf(v1::Recompute recompute) {
  switch (recompute) {
    case v1::RECOMPUTE_NONE:
      return RecomputeLevel::kNone;
    case v1::RECOMPUTE_GELU_LAYERNORM:
      return RecomputeLevel::kGeluAndLayerNorm;
    case v1::RECOMPUTE_BLOCK:
      return RecomputeLevel::kBlock;
    default:
      return RecomputeLevel::kAuto;
  }
}

WantedDevice DeviceOf(v1::Device device) {
  switch (device) {
    case v1::DEVICE_CPU:
      return WantedDevice::kCpu;
    case v1::DEVICE_CUDA:
      return WantedDevice::kCuda;
    default:
      return WantedDevice::kAny;
  }
}

absl::StatusOr<JobConfig> ConfigOf(const v1::JobSpec& given) {
  VITSCALE_ASSIGN_OR_RETURN(const v1::JobSpec spec, Canonicalize(given));
  JobConfig job;
  job.name = spec.name();
  job.kind = spec.kind() == v1::JOB_KIND_EVALUATE ? JobKind::kEvaluate : JobKind::kPretrain;
  if (!spec.from().empty()) {
    VITSCALE_ASSIGN_OR_RETURN(job.from, ParseCheckpointRef(spec.from()));
  }
  job.workers = spec.resources().workers().max();
  job.wanted_device = DeviceOf(spec.resources().device());
  VITSCALE_ASSIGN_OR_RETURN(job.model, ModelOf(spec.model()));
  if (job.kind == JobKind::kPretrain) {
    job.optimizer = OptimizerOf(spec.optimizer());
    job.schedule = ScheduleOf(spec.schedule());
  }
  job.batch_global = spec.batch().global();
  job.batch_micro = spec.batch().micro();
  job.precision = PrecisionOf(spec.precision());
  job.recompute = RecomputeOf(spec.recompute());
  job.train = SourceOf(spec.data().train());
  VITSCALE_ASSIGN_OR_RETURN(job.preprocess, PreprocessFromText(spec.data().preprocess()));
  for (const v1::Eval& eval : spec.evals()) {
    VITSCALE_ASSIGN_OR_RETURN(job.evals.emplace_back(), EvalOf(eval));
  }
  const v1::Checkpoint& checkpoint = spec.checkpoint();
  job.checkpoint = {checkpoint.dir(), LengthOf(checkpoint.every()), checkpoint.keep().last(),
                    LengthOf(checkpoint.keep().every())};
  job.on_divergence.policy = spec.on_divergence().policy() == v1::DIVERGENCE_POLICY_SKIP
                                 ? DivergencePolicy::kSkip
                                 : DivergencePolicy::kFail;
  job.on_divergence.max = spec.on_divergence().max();
  job.seed = spec.seed();
  VITSCALE_ASSIGN_OR_RETURN(job.grace, ParseDuration(spec.grace()));
  job.canonical_text = ToYaml(spec);
  job.canonical_bytes = SpecBytes(spec);
  return job;
}

absl::StatusOr<v1::JobSpec> SpecOfBytes(absl::string_view bytes) {
  v1::JobSpec spec;
  if (!spec.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InvalidArgumentError(
        absl::StrCat("job spec: ", bytes.size(), " bytes that are no serialised JobSpec"));
  }
  return spec;
}

// Resolves lengths one after the other and names the field of the first that fails.
class StepCounter {
 public:
  StepCounter(int64_t batch_global, int64_t train_images)
      : batch_global_(batch_global), train_images_(train_images) {}

  // `positive`: a given length must not round to no step.
  int64_t Steps(absl::string_view field, const Length& length, bool positive = false) {
    const auto steps = LengthInSteps(length, batch_global_, train_images_);
    if (!steps.ok()) {
      Fail(absl::InvalidArgumentError(absl::StrCat(field, ": ", steps.status().message())));
      return 0;
    }
    if (positive && *steps == 0) {
      Fail(absl::InvalidArgumentError(absl::StrCat(field, ": was \"", FormatLength(length),
                                                   "\", which is no step of ", batch_global_,
                                                   " images")));
    }
    return *steps;
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const int64_t batch_global_, train_images_;
  absl::Status status_;
};

absl::Status CheckFitsTotal(const ScheduleConfig& s) {
  if (s.warmup + s.cooldown <= s.total) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("schedule: a warmup of ", s.warmup, " and a cooldown of ", s.cooldown,
                   " steps are longer than the total of ", s.total, " steps"));
}

// No step is done; everything is measured at the end, which has come.
RunLengths LengthsOfEvaluation(const JobConfig& job) {
  RunLengths run;
  run.total_steps = job.from ? job.from->step : 0;
  run.checkpoint_every = 1;
  run.eval_every.assign(job.evals.size(), 0);
  return run;
}

// A program has the range of its preprocessing built in.
int EvalPrograms(const JobConfig& job, bool few_shot) {
  std::set<std::pair<float, float>> ranges;
  for (const EvalConfig& eval : job.evals) {
    if (eval.few_shot.has_value() == few_shot)
      ranges.emplace(eval.preprocess.range_min, eval.preprocess.range_max);
  }
  return static_cast<int>(ranges.size());
}

}  // namespace

absl::StatusOr<JobConfig> JobConfigFromCanonical(absl::string_view serialized_job_spec) {
  VITSCALE_ASSIGN_OR_RETURN(const v1::JobSpec spec, SpecOfBytes(serialized_job_spec));
  return ConfigOf(spec);
}

absl::StatusOr<JobConfig> ParseJobConfig(absl::string_view text, absl::string_view source,
                                         const std::vector<std::string>& overrides) {
  const auto spec = ParseJobSpec(text, FormatOfPath(source), overrides);
  if (!spec.ok()) return Annotate(spec.status(), source);
  auto job = ConfigOf(*spec);
  if (!job.ok()) return Annotate(job.status(), source);
  return job;
}

absl::StatusOr<JobConfig> LoadJobConfig(const std::string& path,
                                        const std::vector<std::string>& overrides) {
  VITSCALE_ASSIGN_OR_RETURN(const std::string text,
                            PosixFileSystem().ReadFile(path, kJobFileBytesMax));
  return ParseJobConfig(text, path, overrides);
}

absl::StatusOr<RunLengths> ResolveLengths(const JobConfig& job, int64_t train_images) {
  if (job.kind == JobKind::kEvaluate) return LengthsOfEvaluation(job);
  if (train_images < job.batch_global) {
    return absl::InvalidArgumentError(
        absl::StrCat("data.train: has ", train_images,
                     " images, wanted at least batch.global, which is ", job.batch_global));
  }
  StepCounter counter(job.batch_global, train_images);
  RunLengths run;
  const ScheduleLengths& s = job.schedule;
  run.schedule = {s.kind,
                  counter.Steps("schedule.warmup", s.warmup),
                  counter.Steps("schedule.timescale", s.timescale, true),
                  counter.Steps("schedule.cooldown", s.cooldown),
                  counter.Steps("schedule.total", s.total, true),
                  counter.Steps("schedule.shift", s.shift)};
  run.total_steps = run.schedule.total;
  run.steps_per_epoch = train_images / job.batch_global;
  run.checkpoint_every = counter.Steps("checkpoint.every", job.checkpoint.every, true);
  run.keep_every = counter.Steps("checkpoint.keep.every", job.checkpoint.keep_every,
                                 !job.checkpoint.keep_every.zero());
  for (size_t i = 0; i < job.evals.size(); ++i) {
    const Length& every = job.evals[i].every;
    run.eval_every.push_back(
        counter.Steps(absl::StrCat("evals[", i, "].every"), every, !every.zero()));
  }
  VITSCALE_RETURN_IF_ERROR(counter.status());
  VITSCALE_RETURN_IF_ERROR(CheckFitsTotal(run.schedule));
  VITSCALE_RETURN_IF_ERROR(ValidateSchedule(run.schedule));
  return run;
}

PlanRequest PlanRequestFor(const JobConfig& job, Precision precision) {
  PlanRequest request;
  request.model = job.model;
  if (job.wanted_device == WantedDevice::kCuda) request.device = DeviceKind::kCuda;
  request.optimizer = job.optimizer.kind;
  request.precision = precision;
  request.packing = WeightPacking::kAuto;
  request.batch_micro = job.batch_micro;
  request.batch_global = job.batch_global;
  request.range_min = job.preprocess.range_min;
  request.range_max = job.preprocess.range_max;
  request.recompute = job.recompute;
  request.training = job.kind != JobKind::kEvaluate;
  request.eval_programs = EvalPrograms(job, /*few_shot=*/false);
  request.feature_programs = EvalPrograms(job, /*few_shot=*/true);
  return request;
}

}  // namespace vitscale
