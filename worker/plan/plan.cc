#include "worker/plan/plan.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"
#include "worker/model/activations.h"
#include "worker/model/vit.h"
#include "worker/plan/backend_bytes.h"
#include "worker/plan/card_bytes.h"
#include "worker/plan/cost.h"

namespace vitscale {
namespace {

// Raised when programs change in a way that ranks of two builds must not mix.
constexpr int kPlanVersion = 2;
constexpr int kStagedBatches = 3;  // two that wait and one on its way, as the loader does

absl::Status Invalid(absl::string_view what) { return absl::InvalidArgumentError(what); }

absl::Status CheckBatches(const PlanRequest& r) {
  if (r.batch_micro < 1)
    return Invalid(absl::StrCat("batch.micro is ", r.batch_micro, ", want at least 1"));
  if (r.batch_global < r.batch_micro || r.batch_global % r.batch_micro != 0) {
    return Invalid(absl::StrCat("batch.micro is ", r.batch_micro,
                                ", want a divisor of batch.global (", r.batch_global, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const PlanRequest& r) {
  VITSCALE_RETURN_IF_ERROR(ValidateModel(r.model));
  VITSCALE_RETURN_IF_ERROR(CheckBatches(r));
  if (r.precision == Precision::kAuto) {
    return Invalid("precision is auto, want bf16 or f32: it is resolved before planning");
  }
  if (r.source_height < r.model.image_size || r.source_width < r.model.image_size) {
    return Invalid(absl::StrCat("source images are ", r.source_height, "x", r.source_width,
                                ", want at least model.image_size (", r.model.image_size, ")"));
  }
  if (r.bucket_bytes < kTensorAlignment) {
    return Invalid(absl::StrCat("bucket size is ", r.bucket_bytes, " bytes, want at least ",
                                kTensorAlignment));
  }
  if (r.labels == LabelKind::kSparse && r.sparse_labels_per_image < 1) {
    return Invalid(absl::StrCat("sparse labels per image is ", r.sparse_labels_per_image,
                                ", want at least 1"));
  }
  return absl::OkStatus();
}

PlanRequest WithDefaults(PlanRequest r) {
  if (r.batch_global == 0) r.batch_global = r.batch_micro;
  if (r.source_height == 0) r.source_height = r.model.image_size;
  if (r.source_width == 0) r.source_width = r.model.image_size;
  if (r.recompute == RecomputeLevel::kAuto) r.recompute = RecomputeDefault(r.device);
  if (r.device == DeviceKind::kCuda) r.packing = WeightPacking::kPersistent;
  return r;
}

// Lays tensors one after the other in one arena.
class ArenaLayout {
 public:
  explicit ArenaLayout(Arena arena) : arena_(arena) {}
  TensorView Add(std::string name, DType dtype, Shape shape) {
    TensorView view{std::move(name), arena_, bytes_, dtype, std::move(shape)};
    bytes_ += AlignUp(view.bytes());
    return view;
  }
  int64_t bytes() const { return bytes_; }

 private:
  Arena arena_;
  int64_t bytes_ = 0;
};

Labels LabelViews(const PlanRequest& r, ArenaLayout& arena) {
  Labels labels;
  labels.kind = r.labels;
  switch (r.labels) {
    case LabelKind::kClassId:
      labels.ids = arena.Add("labels", DType::kI32, {r.batch_micro});
      break;
    case LabelKind::kSparse:
      labels.ids = arena.Add("labels", DType::kI32, {r.batch_micro * r.sparse_labels_per_image});
      labels.offsets = arena.Add("label_offsets", DType::kI32, {r.batch_micro + 1});
      break;
    case LabelKind::kDense:
      labels.dense = arena.Add("labels", DType::kF32, {r.batch_micro, r.model.classes});
      break;
  }
  return labels;
}

InputViews InputLayout(const PlanRequest& r, ArenaLayout& arena) {
  InputViews input;
  input.images = arena.Add("images", DType::kU8,
                           {r.batch_micro, r.source_height, r.source_width, r.model.channels});
  input.augment = arena.Add("augment", DType::kI32, {r.batch_micro, 3});
  input.labels = LabelViews(r, arena);
  input.valid = arena.Add("valid", DType::kF32, {r.batch_micro});
  if (r.model.position == PositionKind::kSincos2d) {
    input.position = arena.Add("position", DType::kF32, {r.model.patches(), r.model.width});
  }
  return input;
}

StatisticsViews StatisticsLayout(ArenaLayout& arena) {
  StatisticsViews s;
  s.loss_sum = arena.Add("loss_sum", DType::kF64, {1});
  s.correct = arena.Add("correct", DType::kI64, {1});
  s.gradient_square_sum = arena.Add("gradient_square_sum", DType::kF64, {1});
  s.parameter_square_sum = arena.Add("parameter_square_sum", DType::kF64, {1});
  s.update_square_sum = arena.Add("update_square_sum", DType::kF64, {1});
  s.digest = arena.Add("digest", DType::kI64, {1});
  s.eval_loss_sum = arena.Add("eval_loss_sum", DType::kF64, {1});
  s.eval_correct = arena.Add("eval_correct", DType::kI64, {1});
  return s;
}

// Whole tensors in the order of the gradient arena, as many as fit; a tensor above the limit has a
// bucket of its own. Backward hides the sums of all but the last bucket, so buckets shrink towards
// the end: each holds at most half of what is still to come, down to a size below which the
// beginning of a sum costs more than its bytes.
std::vector<Bucket> MakeBuckets(const ParamTable& table, int64_t limit) {
  constexpr int64_t kLastBytes = int64_t{2} << 20;
  std::vector<Bucket> buckets;
  const auto& parameters = table.parameters();
  int64_t to_come = table.arena_elements() * DTypeBytes(DType::kF32), most = 0;
  for (auto p = parameters.rbegin(); p != parameters.rend(); ++p) {
    const int64_t bytes = AlignUp(p->elements(), kParameterAlignment) * DTypeBytes(DType::kF32);
    if (buckets.empty() || buckets.back().bytes + bytes > most) {
      buckets.push_back({p->gradient_offset * DTypeBytes(DType::kF32), 0});
      most = std::min(limit, std::max(to_come / 2, kLastBytes));
    }
    buckets.back().bytes += bytes;
    to_come -= bytes;
  }
  return buckets;
}

ModelLayout MakeLayout(const PlanRequest& r, ArenaLayout& input, ArenaLayout& statistics) {
  ModelLayout layout;
  layout.model = r.model;
  layout.precision = r.precision;
  layout.optimizer = r.optimizer;
  layout.polyak = r.polyak;
  layout.recompute = r.recompute;
  layout.training = r.training;
  layout.batch = r.batch_micro;
  layout.head_rows = HeadRows(r.batch_micro, r.model.classes, r.logit_bytes_max);
  layout.padded_logits = r.device == DeviceKind::kCuda;
  layout.range_min = r.range_min;
  layout.range_max = r.range_max;
  layout.table = ParamTable(r.model, r.optimizer);
  layout.buckets = MakeBuckets(layout.table, r.bucket_bytes);
  layout.input = InputLayout(r, input);
  layout.statistics = StatisticsLayout(statistics);
  return layout;
}

// The first, the last and those between are programs of their own.
int64_t StepPrograms(const PlanRequest& r) {
  return std::min<int64_t>(3, r.batch_global / r.batch_micro);
}

// Every program keeps its own workspace; copies of weights are shared.
void AddCardBytes(Plan& plan, const Program& program, int64_t programs = 1) {
  plan.persistent_weight_bytes = std::max(plan.persistent_weight_bytes, CardWeightBytes(program));
  plan.compute_weight_bytes = plan.per_use_weight_bytes = plan.persistent_weight_bytes;
  plan.workspace_bytes += programs * CardWorkspaceBytes(program);
}

void AddDeviceBytes(Plan& plan, Program& eval, const Program& features, Program* step,
                    const Program* update) {
  if (plan.request.device == DeviceKind::kCuda) {
    AddCardBytes(plan, eval, plan.request.eval_programs);
    AddCardBytes(plan, features, plan.request.feature_programs);
    if (step != nullptr) AddCardBytes(plan, *step, StepPrograms(plan.request));
    if (update != nullptr) AddCardBytes(plan, *update);
    return;
  }
  AddBackendBytes(plan, eval);
  if (step == nullptr) return;
  AddBackendBytes(plan, *step);
  plan.workspace_bytes += OptimizerWorkspaceBytes(plan.layout);
}

void PlanActivations(Plan& plan) {
  Program eval = BuildEval(plan.layout, true), features = BuildFeatures(plan.layout).program;
  plan.eval_activation_bytes = std::max(ActivationBytes(eval), ActivationBytes(features));
  if (!plan.request.training) return AddDeviceBytes(plan, eval, features, nullptr, nullptr);
  OptimizerConfig optimizer;
  optimizer.kind = plan.request.optimizer;
  // A second micro-batch has a few more small tensors than the first.
  Program step = BuildStep(plan.layout, {false, true});
  Program update = BuildUpdate(plan.layout, optimizer);
  plan.step_activation_bytes = ActivationBytes(step);
  plan.update_activation_bytes = ActivationBytes(update);
  AddDeviceBytes(plan, eval, features, &step, &update);
}

void PlanArenas(Plan& plan, int64_t input_bytes, int64_t statistics_bytes) {
  const ParamTable& table = plan.layout.table;
  ArenaBytes& bytes = plan.arena_bytes;
  const auto at = [&bytes](Arena arena) -> int64_t& { return bytes[static_cast<int>(arena)]; };
  bytes.fill(0);
  at(Arena::kParameters) = table.arena_elements() * DTypeBytes(DType::kF32);
  at(Arena::kInput) = input_bytes;
  at(Arena::kStatistics) = statistics_bytes;
  at(Arena::kActivations) = std::max(
      {plan.step_activation_bytes, plan.update_activation_bytes, plan.eval_activation_bytes});
  if (!plan.request.training) return;
  at(Arena::kGradients) = table.arena_elements() * DTypeBytes(DType::kF32);
  at(Arena::kMomentum) = table.arena_elements() * DTypeBytes(DType::kBf16);
  at(Arena::kSecondMoment) = table.second_moment_arena_elements() * DTypeBytes(DType::kF32);
  if (plan.request.polyak) at(Arena::kAverage) = at(Arena::kParameters);
}

int64_t CheckpointBytes(const Plan& plan) {
  const int64_t parameters = plan.layout.table.parameter_count();
  return parameters *
             (DTypeBytes(DType::kF32) * (plan.request.polyak ? 2 : 1) + DTypeBytes(DType::kBf16)) +
         plan.layout.table.second_moment_count() * DTypeBytes(DType::kF32);
}

// Not the recompute level: ranks may differ in it, since no bit does. Nor the device: who may work
// together is decided by numeric class.
uint64_t HashOf(const Plan& plan) {
  const PlanRequest& r = plan.request;
  const ModelConfig& m = r.model;
  std::string text = absl::StrJoin({int64_t{kPlanVersion},
                                    int64_t{m.image_size},
                                    int64_t{m.channels},
                                    int64_t{m.patch},
                                    int64_t{m.width},
                                    int64_t{m.depth},
                                    int64_t{m.heads},
                                    int64_t{m.mlp_width},
                                    int64_t{m.classes},
                                    int64_t{m.representation_size},
                                    int64_t{r.source_height},
                                    int64_t{r.source_width},
                                    static_cast<int64_t>(m.pool),
                                    static_cast<int64_t>(m.loss),
                                    static_cast<int64_t>(m.position),
                                    static_cast<int64_t>(r.optimizer),
                                    static_cast<int64_t>(r.precision),
                                    static_cast<int64_t>(r.labels),
                                    static_cast<int64_t>(m.residual),
                                    r.batch_micro,
                                    r.batch_global,
                                    r.bucket_bytes,
                                    int64_t{r.polyak},
                                    r.sparse_labels_per_image},
                                   " ");
  absl::StrAppend(&text, " ", m.head_bias, " ", r.range_min, " ", r.range_max);
  if (plan.layout.head_rows < r.batch_micro) {
    absl::StrAppend(&text, " head ", plan.layout.head_rows);
  }
  for (const Parameter& p : plan.layout.table.parameters()) {
    absl::StrAppend(&text, " ", p.name, " ", p.offset_elements, " ", p.gradient_offset, " ",
                    p.second_moment_offset);
  }
  return Hash64(text);
}

}  // namespace

int64_t Plan::step_bytes(int64_t process_bytes) const {
  int64_t bytes = compute_weight_bytes + workspace_bytes + process_bytes + kRunningBytes;
  for (int64_t arena : arena_bytes) bytes += arena;
  return bytes;
}

int64_t Plan::card_bytes() const {
  if (request.device == DeviceKind::kCpu) return 0;
  int64_t bytes = compute_weight_bytes + workspace_bytes + kCardContextBytes;
  for (int64_t arena : arena_bytes) bytes += arena;
  return bytes;
}

int64_t Plan::host_bytes() const {
  const int64_t process =
      request.device == DeviceKind::kCpu ? step_bytes() : kCudaProcessBytes + kPinnedStagingBytes;
  return process + staged_input_bytes + (request.training ? checkpoint_bytes : 0);
}

int64_t Plan::memory_bytes() const {
  return request.device == DeviceKind::kCpu ? host_bytes() : card_bytes();
}

int64_t Plan::optimizer_bytes() const {
  return arena_bytes[static_cast<int>(Arena::kMomentum)] +
         arena_bytes[static_cast<int>(Arena::kSecondMoment)];
}

int64_t Plan::WireBytes(int workers) const {
  if (workers < 2) return 0;
  return static_cast<int64_t>(2.0 * (workers - 1) / workers * static_cast<double>(gradient_bytes));
}

DeviceKind DeviceKindOf(absl::string_view device) {
  return absl::StartsWith(device, "cuda") ? DeviceKind::kCuda : DeviceKind::kCpu;
}

const char* DeviceKindName(DeviceKind kind) { return kind == DeviceKind::kCuda ? "cuda" : "cpu"; }

int64_t HeadRows(int64_t batch, int64_t classes, int64_t logit_bytes_max) {
  constexpr int64_t kMultiple = 64;  // rows that begin at an aligned address whatever their dtype
  const int64_t row_bytes = classes * DTypeBytes(DType::kF32);
  const int64_t most = std::max(kMultiple, logit_bytes_max / row_bytes / kMultiple * kMultiple);
  if (batch <= most) return batch;
  const int64_t pieces = (batch + most - 1) / most;
  return AlignUp((batch + pieces - 1) / pieces, kMultiple);
}

absl::StatusOr<Plan> MakePlan(const PlanRequest& request) {
  Plan plan;
  plan.request = WithDefaults(request);
  VITSCALE_RETURN_IF_ERROR(CheckRequest(plan.request));
  ArenaLayout input(Arena::kInput), statistics(Arena::kStatistics);
  plan.layout = MakeLayout(plan.request, input, statistics);
  plan.flops = FlopsOf(plan.request.model);
  PlanActivations(plan);
  PlanArenas(plan, input.bytes(), statistics.bytes());
  plan.staged_input_bytes = kStagedBatches * input.bytes();
  plan.checkpoint_bytes = CheckpointBytes(plan);
  plan.gradient_bytes = plan.layout.table.arena_elements() * DTypeBytes(DType::kF32);
  plan.hash = HashOf(plan);
  return plan;
}

}  // namespace vitscale
