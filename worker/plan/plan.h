// The plan of a replica: how large every arena is, where everything lies, what a step costs.
// Arithmetic over the Program only: no backend is linked and the model is never allocated, so G/14
// is planned in milliseconds on a laptop. Client, server, trainer and vitscale-bench use the same
// one.

#ifndef WORKER_PLAN_PLAN_H_
#define WORKER_PLAN_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "worker/model/layout.h"
#include "worker/model/model_config.h"
#include "worker/model/optimizer_config.h"

namespace vitscale {

// Whose memory and speed the plan is for.
enum class DeviceKind : uint8_t { kCpu, kCuda };
// Of "cpu" or "cuda:<index>".
DeviceKind DeviceKindOf(absl::string_view device);
const char* DeviceKindName(DeviceKind kind);  // "cpu", "cuda"

// What auto means where memory does not decide; see README.md for what each level costs. A card
// reads what it kept faster than it computes it again; caches of a CPU do not.
constexpr RecomputeLevel RecomputeDefault(DeviceKind device) {
  return device == DeviceKind::kCuda ? RecomputeLevel::kNone : RecomputeLevel::kGeluAndLayerNorm;
}

// When a backend makes its packed copies of weights: once per step, kept until the next, or before
// each use, into a buffer for the weights of one block. The same bits.
enum class WeightPacking : uint8_t { kPersistent, kPerUse, kAuto };
constexpr const char* WeightPackingName(WeightPacking packing) {
  constexpr const char* kNames[] = {"persistent", "per use", "auto"};
  return kNames[static_cast<int>(packing)];
}

// Logits exist for as many images at a time as this much f32 holds, 64 at least: 512 of
// 29,593 classes, 16,768 of 1,000.
inline constexpr int64_t kLogitBytesMax = int64_t{64} << 20;

struct PlanRequest {
  ModelConfig model;
  DeviceKind device = DeviceKind::kCpu;
  OptimizerKind optimizer = OptimizerKind::kAdafactor;
  Precision precision = Precision::kF32;     // kAuto is refused: resolve it first
  int64_t batch_micro = 0;                   // images that go through the network at once
  int64_t batch_global = 0;                  // images per step over all workers; 0: batch_micro
  int64_t bucket_bytes = int64_t{32} << 20;  // of gradients, at most: summed as one
  int64_t logit_bytes_max = kLogitBytesMax;
  bool polyak = false;
  int source_height = 0, source_width = 0;  // of the images as read; 0: image_size
  float range_min = -1.0f, range_max = 1.0f;
  LabelKind labels = LabelKind::kClassId;
  int64_t sparse_labels_per_image = 16;  // kSparse: capacity, averaged over a micro-batch
  bool training = true;  // false: an evaluation, which has no gradients, moments and step
  // Of evaluations, beside those of the step: one for each range of values of their preprocessing.
  int eval_programs = 1;     // of loss and top-1
  int feature_programs = 0;  // few-shot
  int threads = 1;           // of a backend on the CPU; each has its scratch
  RecomputeLevel recompute = RecomputeLevel::kAuto;    // kAuto: RecomputeDefault
  WeightPacking packing = WeightPacking::kPersistent;  // kAuto: per use only where that fits; a
                                                       // card keeps its copies
};

// Multiplications and additions of matmuls (2 per multiply-accumulate), attention included, for one
// image.
struct Flops {
  double trunk = 0;    // patch embedding and blocks
  double forward = 0;  // with head and classifier
  // The trunk as arXiv 2106.04560 table 2 prints it: that table counts elementwise work too. 3 per
  // attention score, 5 per hidden unit of the MLP and 51 per channel, token and block give all its
  // 22 figures within their rounding.
  double paper_table = 0;
  double training() const { return 3 * forward; }
};

// What a process holds before it makes a backend (program and libraries), and what it comes to hold
// of heap, stacks and code that oneDNN makes once it runs. Measured: README.md.
inline constexpr int64_t kProcessBytes = int64_t{12} << 20;
inline constexpr int64_t kRunningBytes = int64_t{6} << 20;

struct Plan {
  PlanRequest request;
  ModelLayout layout;      // what the builders of worker/model/vit.h take
  ArenaBytes arena_bytes;  // what Backend::Allocate takes
  Flops flops;
  int64_t step_activation_bytes = 0;    // of BuildStep; the arena holds the largest user
  int64_t update_activation_bytes = 0;  // of BuildUpdate
  int64_t eval_activation_bytes = 0;    // of BuildEval
  int64_t compute_weight_bytes = 0;     // estimate: a backend's copies of matmul weights
  int64_t persistent_weight_bytes = 0;  // what they would be, packed once per step
  int64_t per_use_weight_bytes = 0;     // and before each use
  int64_t workspace_bytes = 0;          // estimate: its scratch and partial sums
  int64_t staged_input_bytes = 0;       // micro-batches that the loader has ready
  int64_t checkpoint_bytes = 0;         // parameters, momentum, second moment, average
  int64_t gradient_bytes = 0;           // reduced per step
  uint64_t hash = 0;                    // of everything that must agree between ranks

  // What a process needs to run steps of this plan on the CPU: arenas, compute weights, workspace,
  // kRunningBytes and `process_bytes`. vitscale-bench step compares it with what was measured.
  int64_t step_bytes(int64_t process_bytes = kProcessBytes) const;
  // What a card holds: arenas, compute weights, workspace and kCardContextBytes (card_bytes.h). 0
  // on the CPU.
  int64_t card_bytes() const;
  // What a worker holds of its machine's memory: the staged input, a copy of the state while it is
  // saved, and its process; on the CPU that is all of step_bytes().
  int64_t host_bytes() const;
  // Of the memory that limits a worker: card_bytes(), or host_bytes() on the CPU.
  int64_t memory_bytes() const;
  // Momentum and second moment.
  int64_t optimizer_bytes() const;
  // Bytes that one rank of `workers` sends per step: ring, 2 (n - 1) / n of the gradients.
  int64_t WireBytes(int workers) const;
};

// Images whose logits exist at a time: all of a micro-batch, or equal pieces of it whose rows are a
// multiple of 64.
int64_t HeadRows(int64_t batch, int64_t classes, int64_t logit_bytes_max = kLogitBytesMax);

// INVALID_ARGUMENT for a model that does not validate, a batch that is not positive, a micro-batch
// that does not divide the global batch, precision auto, a source smaller than the crop.
absl::StatusOr<Plan> MakePlan(const PlanRequest& request);

// A level for a worker with `memory_bytes` of its device (0: not limited): what the request says;
// auto: the default if it fits, else the first of what keeps less that does, else the one that
// keeps least.
absl::StatusOr<RecomputeLevel> ChooseRecompute(const PlanRequest& request, int64_t memory_bytes);

// The same for packed weights, once everything else is chosen: per use only if that fits and
// persistent does not.
absl::StatusOr<WeightPacking> ChoosePacking(const PlanRequest& request, int64_t memory_bytes);

// The greatest micro-batch that divides batch_global, leaves every one of `workers` the same number
// of micro-batches (where `workers` divides batch_global), is at most kMicroBatchMax and fits into
// `memory_bytes` (0: not limited). Where recompute is auto, a level that keeps less is used only if
// it is needed for micro-batches of MicroBatchEnough, or for any. RESOURCE_EXHAUSTED when even one
// image does not fit; says what it needs and the smallest change that would fit.
inline constexpr int64_t kMicroBatchMax = 256;
// From here on a larger one gives little. CPU: panels for a few threads. Card: a tile of 128 by 256
// for each of 132 multiprocessors in a product that is as wide as the model; 11 images of G/14, 58
// of S/16.
int64_t MicroBatchEnough(const PlanRequest& request);
absl::StatusOr<int64_t> ChooseMicroBatch(const PlanRequest& request, int workers,
                                         int64_t memory_bytes);

// OK, or RESOURCE_EXHAUSTED: what the plan needs, what there is, and the smallest change that would
// fit (a level that keeps less; a smaller micro-batch; a bf16 residual; if one image is too much,
// another optimizer or model).
absl::Status CheckFits(const Plan& plan, int64_t memory_bytes);

class MachineRates;  // machine_rates.h

// What the report can say only when somebody knows it.
struct ReportOptions {
  const MachineRates* rates = nullptr;  // of one worker; null: no times
  double wire_bytes_per_second = 0;     // 0: as in the rates
  int64_t memory_bytes = 0;             // of one worker's device; 0: unknown
  int64_t total_steps = 0;              // of the schedule; 0: unknown
};

// The text of `vitscale plan`, lines with a closing newline: model, parameters, FLOPs, memory by
// kind, wire, checkpoint; step time, images/s, efficiency and time to finish for each of `workers`
// where the rates tell.
std::string PlanText(const Plan& plan, absl::Span<const int> workers,
                     const ReportOptions& options = {});

// "1.25 GiB", "33.15 MiB", "512 B": four digits.
std::string HumanBytes(int64_t bytes);
// "1.5 s", "3.2 min", "5.1 h", "12.5 days".
std::string HumanSeconds(double seconds);

}  // namespace vitscale

#endif  // WORKER_PLAN_PLAN_H_
