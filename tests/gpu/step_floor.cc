// What a training step of each model asks of a card at least: bytes of operands, arithmetic, the
// time both take at the data sheet's rates, and how often something is launched. A table in
// Markdown, made without a card:
//
//   build/dev/tests/step-floor      (its output: results/h100_floors.md)
//
// Bytes and FLOPs are those of the model's own plan, op by op (worker/plan/cost.h): every operand
// once, weights as the matmuls read them. Launches are counted, not computed: a model as deep, with
// heads as wide, and else as small as may be runs on the CPU through the layer of
// tests/cuda_on_cpu.

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/base/status.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda_on_cpu/device.h"
#include "worker/model/vit.h"
#include "worker/plan/cost.h"
#include "worker/plan/plan.h"

namespace vitscale {
namespace {

// NVIDIA's data sheet of the H100 SXM: dense bf16 and HBM3.
constexpr double kFlopsPerSecond = 989e12, kBytesPerSecond = 3.35e12;
constexpr struct Model {
  const char* name;
  int64_t batch;
} kModels[] = {{"S/16", 512}, {"B/16", 256}, {"L/16", 128}, {"g/14", 32}, {"G/14", 32}};

struct Kind {
  int64_t ops = 0, launches = 0, products = 0;
  OpCost cost;
  double floor_seconds = 0;
};
using Kinds = std::map<std::string, Kind>;

PlanRequest RequestOf(const ModelShape& shape, int64_t batch) {
  PlanRequest request;
  request.device = DeviceKind::kCuda;
  request.model.SetShape(shape);
  request.model.classes = 1000;
  request.precision = Precision::kBf16;
  request.batch_micro = batch;
  return request;
}
PlanRequest ThinRequestOf(const ModelShape& shape) {
  PlanRequest request = RequestOf({.patch = 16,
                                   .width = shape.width / shape.heads,
                                   .depth = shape.depth,
                                   .heads = 1,
                                   .mlp_width = 64},
                                  2);
  request.model.image_size = 32;
  request.model.classes = 16;
  return request;
}

std::vector<Program> ProgramsOf(const Plan& plan) {
  return {BuildStep(plan.layout, {}), BuildUpdate(plan.layout, {})};
}

// ---- costs
// ---------------------------------------------------------------------------------------

// What CostOf counts otherwise than the backend moves it: matmuls read a bf16 copy of an f32
// parameter, and PrepareWeights writes that copy.
double BytesOfCopies(const Op& op) {
  double elements = 0;
  const auto add = [&](const WeightParts& weight) {
    for (const TensorView& part : weight) elements += static_cast<double>(part.elements());
  };
  if (const auto* prepare = std::get_if<PrepareWeightsArgs>(&op)) {
    for (const WeightParts& weight : prepare->weights) add(weight);
    return 2 * elements;
  }
  const auto* forward = std::get_if<LinearArgs>(&op);
  const auto* backward = std::get_if<LinearGradInputArgs>(&op);
  if (forward != nullptr && !forward->full_precision) add(forward->weight);
  if (backward != nullptr && !backward->full_precision) add(backward->weight);
  return -2 * elements;
}

void AddCosts(const Plan& plan, Kinds& kinds) {
  for (Program& program : ProgramsOf(plan)) {
    for (Op& op : program.mutable_ops()) {
      OpCost cost = CostOf(op);
      if (cost.bytes == 0) continue;
      cost.bytes += BytesOfCopies(op);
      Kind& kind = kinds[OpName(op)];
      ++kind.ops;
      kind.cost.flops += cost.flops;
      kind.cost.bytes += cost.bytes;
      kind.floor_seconds += std::max(cost.flops / kFlopsPerSecond, cost.bytes / kBytesPerSecond);
    }
  }
}

// ---- launches
// ------------------------------------------------------------------------------------

int64_t ProductsOf(const Op& op) {
  if (const auto* a = std::get_if<LinearGradWeightArgs>(&op)) {
    return static_cast<int64_t>(a->grad_weight.size());
  }
  return std::holds_alternative<LinearArgs>(op) || std::holds_alternative<LinearGradInputArgs>(op);
}

absl::Status RunOnce(Backend& backend, Program program) {
  VITSCALE_ASSIGN_OR_RETURN(auto prepared, backend.Prepare(std::move(program)));
  return backend.Run(*prepared, StepScalars{}, nullptr);
}

// Labels, crops and parameters are all zero, which no count depends on.
absl::Status AddLaunches(const Plan& thin, Kinds& kinds) {
  VITSCALE_ASSIGN_OR_RETURN(auto backend,
                            cuda::CreateCudaBackend({.device = "cuda:0", .bf16 = true}));
  VITSCALE_RETURN_IF_ERROR(backend->Allocate(thin.arena_bytes));
  // The first run makes copies of weights; none is new afterwards.
  for (const Program& program : ProgramsOf(thin)) {
    VITSCALE_RETURN_IF_ERROR(RunOnce(*backend, program));
  }
  for (const Program& program : ProgramsOf(thin)) {
    for (const Op& op : program.ops()) {
      Kind& kind = kinds[OpName(op)];
      if (kind.ops == 0) continue;  // a marker
      Program alone;
      alone.mutable_ops().push_back(op);
      const int64_t before = cuda_on_cpu::Counts().launches;
      VITSCALE_RETURN_IF_ERROR(RunOnce(*backend, std::move(alone)));
      kind.launches += cuda_on_cpu::Counts().launches - before;
      kind.products += ProductsOf(op);
    }
  }
  return absl::OkStatus();
}

// ---- text
// ----------------------------------------------------------------------------------------

void PrintModel(const Model& model, const Plan& plan, const Kinds& kinds) {
  Kind sum;
  absl::PrintF("\n**%s**, batch %d, recompute %s; planned on the card: %s.\n\n", model.name,
               model.batch, RecomputeName(plan.request.recompute), HumanBytes(plan.card_bytes()));
  absl::PrintF("| op | ops | products | launches of our own | GFLOP | MB | floor, us |\n");
  absl::PrintF("|---|---|---|---|---|---|---|\n");
  for (const auto& [name, kind] : kinds) {
    if (kind.ops == 0) continue;
    absl::PrintF("| %s | %d | %d | %d | %.1f | %.1f | %.1f |\n", name, kind.ops, kind.products,
                 kind.launches, kind.cost.flops / 1e9, kind.cost.bytes / 1e6,
                 kind.floor_seconds * 1e6);
    sum.ops += kind.ops;
    sum.products += kind.products;
    sum.launches += kind.launches;
    sum.cost.flops += kind.cost.flops;
    sum.cost.bytes += kind.cost.bytes;
    sum.floor_seconds += kind.floor_seconds;
  }
  absl::PrintF("| **step** | %d | %d | %d | %.1f | %.1f | **%.1f** |\n", sum.ops, sum.products,
               sum.launches, sum.cost.flops / 1e9, sum.cost.bytes / 1e6, sum.floor_seconds * 1e6);
  absl::PrintF("\nArithmetic alone: %.1f us; %.0f images/s at the floor.\n",
               sum.cost.flops / kFlopsPerSecond * 1e6,
               static_cast<double>(model.batch) / sum.floor_seconds);
}

absl::Status Report(const Model& model) {
  VITSCALE_ASSIGN_OR_RETURN(const ModelShape shape, VariantByName(model.name));
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(RequestOf(shape, model.batch)));
  VITSCALE_ASSIGN_OR_RETURN(const Plan thin, MakePlan(ThinRequestOf(shape)));
  Kinds kinds;
  AddCosts(plan, kinds);
  VITSCALE_RETURN_IF_ERROR(AddLaunches(thin, kinds));
  PrintModel(model, plan, kinds);
  return absl::OkStatus();
}

void PrintHead() {
  absl::PrintF(
      "# Floors of a training step on an H100\n\n"
      "Printed by `step-floor` (tests/gpu/step_floor.cc), which needs no card. 3.35 TB/s and 989\n"
      "TFLOP/s of dense bf16 are the data sheet's; bytes are those of every operand, once; "
      "launches\n"
      "were counted where the kernels run on a CPU. MAP head, 1,000 classes, sigmoid loss, bf16,\n"
      "224 pixels, Adafactor. `products` are launches of cuBLASLt. The floor of an op is the "
      "longer\n"
      "of its arithmetic and its bytes, that of a step the sum over its ops.\n");
}

}  // namespace
}  // namespace vitscale

int main() {
  vitscale::PrintHead();
  for (const vitscale::Model& model : vitscale::kModels) {
    if (const absl::Status status = vitscale::Report(model); !status.ok()) {
      absl::FPrintF(stderr, "step-floor: %s: %s\n", model.name, status.ToString());
      return 1;
    }
  }
  return 0;
}
