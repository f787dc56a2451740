#include "worker/bench/bench_model.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/base/philox.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/model/vit.h"
#include "worker/plan/memory_table.h"

namespace vitscale {
namespace {

template <typename T>
absl::Status WriteView(Backend& backend, const TensorView& view, const std::vector<T>& values) {
  return backend.Write(
      view, {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)});
}

absl::Status WriteInput(const ModelLayout& layout, Backend& backend) {
  Draws draws(0, DrawPurpose::kBenchmark, 0, 0);
  std::vector<uint8_t> images(layout.input.images.bytes());
  for (uint8_t& pixel : images) pixel = static_cast<uint8_t>(draws.Bits());
  std::vector<int32_t> labels(layout.batch);
  for (int32_t& label : labels) label = static_cast<int32_t>(draws.Below(layout.model.classes));
  VITSCALE_RETURN_IF_ERROR(WriteView(backend, layout.input.images, images));
  VITSCALE_RETURN_IF_ERROR(
      WriteView(backend, layout.input.augment, std::vector<int32_t>(3 * layout.batch)));
  VITSCALE_RETURN_IF_ERROR(WriteView(backend, layout.input.labels.ids, labels));
  VITSCALE_RETURN_IF_ERROR(
      WriteView(backend, layout.input.valid, std::vector<float>(layout.batch, 1.0f)));
  return WriteConstants(layout, backend);
}

absl::Status WriteParameters(const ModelLayout& layout, Backend& backend) {
  for (size_t i = 0; i < layout.table.parameters().size(); ++i) {
    const Parameter& p = layout.table.parameters()[i];
    std::vector<float> values(p.elements());
    InitializeParameter(layout.table, static_cast<int>(i), 0, absl::MakeSpan(values));
    VITSCALE_RETURN_IF_ERROR(WriteView(backend, layout.table.ParameterView(p), values));
  }
  return absl::OkStatus();
}

}  // namespace

void AddShapeFlags(CLI::App& command, BenchOptions& o) {
  auto* variant = command.add_option("--variant", o.variant, "Named model, such as S/16");
  const auto custom = [&](const char* flag, int& value, const char* help) {
    command.add_option(flag, value, help)->excludes(variant)->check(WholeNumber(1, 1'000'000));
  };
  custom("--patch", o.custom.patch, "Side of a patch");
  custom("--width", o.custom.width, "Channels of the residual stream");
  custom("--depth", o.custom.depth, "Blocks");
  custom("--heads", o.custom.heads, "Attention heads");
  custom("--mlp-width", o.custom.mlp_width, "Hidden width of the MLP");
  const auto size = [&](const char* flag, int& value, int least, const char* help) {
    return command.add_option(flag, value, help)->check(WholeNumber(least, 1'000'000));
  };
  size("--image-size", o.image_size, 1, "Side of the input")->capture_default_str();
  size("--channels", o.channels, 1, "Colour channels")->capture_default_str();
  size("--classes", o.classes, 1, "Classes")->capture_default_str();
  size("--representation-size", o.representation, 0, "Width of a tanh layer before the head");
  command.add_option("--pool", o.pool, "Head")
      ->check(OneOfWords({"map", "gap", "cls"}))
      ->capture_default_str();
  command.add_option("--loss", o.loss, "Loss")
      ->check(OneOfWords({"sigmoid", "softmax"}))
      ->capture_default_str();
  command.add_option("--position", o.position, "Position embedding")
      ->check(OneOfWords({"learned", "sincos2d"}))
      ->capture_default_str();
  command.add_option("--optimizer", o.optimizer, "Update rule")
      ->check(OneOfWords({"adafactor", "adamw", "sgd"}))
      ->capture_default_str();
}

void AddDeviceFlag(CLI::App& command, BenchOptions& o) {
  command.add_option("--device", o.device, "cpu, or cuda:<index>")->capture_default_str();
}

void AddModelFlags(CLI::App& command, BenchOptions& o) {
  AddShapeFlags(command, o);
  command.add_option("--precision", o.precision, "Matmul inputs")
      ->check(OneOfWords({"bf16", "f32"}))
      ->capture_default_str();
  command.add_option("--residual", o.residual, "What the residual stream is stored in")
      ->check(OneOfWords({"f32", "bf16"}))
      ->capture_default_str();
  command
      .add_option("--recompute", o.recompute,
                  "What backward computes again instead of keeping it; auto: the planner's choice")
      ->check(OneOfWords({"auto", "none", "gelu_layernorm", "block"}))
      ->capture_default_str();
  AddDeviceFlag(command, o);
  const auto peak = [&](const char* flag, double& value, const char* help) {
    return command.add_option(flag, value, help)->check(CLI::PositiveNumber);
  };
  auto* tflops = peak("--peak-tflops", o.peak_tflops, "What the device multiplies at most");
  auto* memory = peak("--peak-gbs", o.peak_gigabytes_per_second, "GB/s of its memory");
  tflops->needs(memory);
  memory->needs(tflops);
  command.add_option("--isa", o.instruction_set,
                     "Instruction set to force: avx2, avx512, avx512_bf16");
  command
      .add_option("--packed-weights", o.packed_weights,
                  "Packed once per step and kept, or before each use; compare (step): both")
      ->check(OneOfWords({"persistent", "per_use", "compare"}))
      ->capture_default_str();
  command.add_option("--batch", o.batch, "Images of a micro-batch")
      ->check(WholeNumber(1, 1'000'000))
      ->capture_default_str();
  command.add_option("--threads", o.threads, "Threads; 0: every core")
      ->check(WholeNumber(0, 1024))
      ->capture_default_str();
  command.add_flag("--ceiling,!--no-ceiling", o.ceiling,
                   "Measure the machine's peak for the shares (default on)");
  AddRunFlags(command, o);
}

void AddRunFlags(CLI::App& command, BenchOptions& o) {
  command.add_option("--steps", o.steps, "Timed repetitions")
      ->check(WholeNumber(1, 1'000'000))
      ->capture_default_str();
  command.add_flag("--json", o.json, "One JSON object instead of a table");
}

OptimizerConfig OptimizerConfigOf(const BenchOptions& o) {
  OptimizerConfig optimizer;
  optimizer.kind = o.optimizer == "adamw" ? OptimizerKind::kAdamW
                   : o.optimizer == "sgd" ? OptimizerKind::kSgd
                                          : OptimizerKind::kAdafactor;
  optimizer.learning_rate = 1e-4;
  return optimizer;
}

absl::StatusOr<PlanRequest> RequestOf(const BenchOptions& o) {
  if (o.variant.empty() && o.custom.patch == 0) {
    return absl::InvalidArgumentError(
        "no model: want --variant, or --patch, --width, --depth, --heads and --mlp-width");
  }
  PlanRequest request;
  request.device = DeviceKindOf(o.device);
  ModelShape shape = o.custom;
  if (!o.variant.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(shape, VariantByName(o.variant));
  }
  request.model.SetShape(shape);
  request.model.image_size = o.image_size;
  request.model.channels = o.channels;
  request.model.classes = o.classes;
  request.model.representation_size = o.representation;
  request.model.pool = o.pool == "gap"   ? PoolKind::kGap
                       : o.pool == "cls" ? PoolKind::kCls
                                         : PoolKind::kMap;
  request.model.loss = o.loss == "softmax" ? LossKind::kSoftmax : LossKind::kSigmoid;
  request.model.position =
      o.position == "sincos2d" ? PositionKind::kSincos2d : PositionKind::kLearned;
  request.optimizer = OptimizerConfigOf(o).kind;
  request.precision = o.precision == "f32" ? Precision::kF32 : Precision::kBf16;
  request.model.residual = o.residual == "bf16" ? DType::kBf16 : DType::kF32;
  request.recompute = o.recompute == "none"             ? RecomputeLevel::kNone
                      : o.recompute == "block"          ? RecomputeLevel::kBlock
                      : o.recompute == "gelu_layernorm" ? RecomputeLevel::kGeluAndLayerNorm
                                                        : RecomputeLevel::kAuto;
  request.batch_micro = o.batch;
  request.packing =
      o.packed_weights == "per_use" ? WeightPacking::kPerUse : WeightPacking::kPersistent;
  return request;
}

namespace {

absl::StatusOr<BenchReplica> AllocatedReplica(const BenchOptions& options,
                                              const PlanRequest& request) {
  BenchReplica replica;
  VITSCALE_ASSIGN_OR_RETURN(replica.plan, MakePlan(request));
  BackendOptions backend;
  backend.device = options.device;
  backend.threads = options.threads;
  backend.bf16 = request.precision == Precision::kBf16;
  backend.instruction_set = options.instruction_set;
  backend.packed_per_use = request.packing == WeightPacking::kPerUse;
  VITSCALE_ASSIGN_OR_RETURN(replica.backend, CreateBackend(backend));
  VITSCALE_RETURN_IF_ERROR(
      WithMemoryTable(replica.backend->Allocate(replica.plan.arena_bytes), replica.plan));
  return replica;
}

// Auto on a card: the first level that it has room for, since only the card knows how much that is.
absl::StatusOr<BenchReplica> FirstThatFits(const BenchOptions& options, PlanRequest request) {
  using enum RecomputeLevel;
  for (const RecomputeLevel level : {kNone, kGeluAndLayerNorm}) {
    request.recompute = level;
    auto replica = AllocatedReplica(options, request);
    if (!absl::IsResourceExhausted(replica.status())) return replica;
  }
  request.recompute = kBlock;
  return AllocatedReplica(options, request);
}

}  // namespace

absl::StatusOr<BenchReplica> MakeBenchReplica(const BenchOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(PlanRequest request, RequestOf(options));
  request.threads = options.threads > 0 ? options.threads : UsableCores();
  const bool open =
      request.device == DeviceKind::kCuda && request.recompute == RecomputeLevel::kAuto;
  VITSCALE_ASSIGN_OR_RETURN(
      BenchReplica replica,
      open ? FirstThatFits(options, request) : AllocatedReplica(options, request));
  VITSCALE_RETURN_IF_ERROR(WriteParameters(replica.plan.layout, *replica.backend));
  VITSCALE_RETURN_IF_ERROR(WriteInput(replica.plan.layout, *replica.backend));
  return replica;
}

nlohmann::json Describe(const BenchOptions& o, const BenchReplica& replica) {
  const ModelConfig& m = replica.plan.request.model;
  const BackendInfo info = replica.backend->info();
  nlohmann::json report = {
      {"model", o.variant.empty() ? absl::StrCat("custom ", m.patch, "/", m.width, "x", m.depth)
                                  : o.variant},
      {"image_size", m.image_size},
      {"channels", m.channels},
      {"classes", m.classes},
      {"pool", o.pool},
      {"batch", o.batch},
      {"precision", o.precision},
      {"residual", o.residual},
      {"packed_weights", WeightPackingName(replica.plan.request.packing)},
      {"recompute", RecomputeName(replica.plan.request.recompute)},
      {"optimizer", o.optimizer},
      {"parameters", replica.plan.layout.table.parameter_count()},
      {"train_gflop_per_image", replica.plan.flops.training() / 1e9},
      {"device", info.device},
      {"instruction_set", info.instruction_set},
      {"threads", info.threads},
      {"libraries", info.libraries}};
  if (info.memory_bytes > 0) {  // of everybody on the device, against what the plan says
    report["device_memory_bytes"] = info.memory_bytes;
    report["plan_memory_bytes"] = replica.plan.memory_bytes();
  }
  return report;
}

std::string AbsolutePath(const std::string& path) {
  if (path.empty()) return path;
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : std::string(absolute.lexically_normal());
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace vitscale
