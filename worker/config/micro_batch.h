// Submit: the micro-batch of a job, chosen once for every device that the job may be placed on.
//
// It cannot change afterwards, for it decides the order of sums; so it must fit whatever the
// scheduler may choose. A worker on the CPU is limited by its machine's memory, one with a card by
// the card's, and each is planned by the formulas of its own kind.

#ifndef WORKER_CONFIG_MICRO_BATCH_H_
#define WORKER_CONFIG_MICRO_BATCH_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/plan/plan.h"

namespace vitscale {

// A worker as far as its memory cares.
struct DeviceLimits {
  DeviceKind kind = DeviceKind::kCpu;
  std::string model;         // "NVIDIA H100 80GB HBM3"; for people
  int64_t memory_bytes = 0;  // of the card, or of a CPU worker's machine; 0: not limited
  int threads = 0;           // of a worker on the CPU; 0: one
  bool bf16 = false;         // multiplies it: alone with its like it runs auto in bf16, else f32
};

struct FixedSpec {
  std::string spec_bytes;  // the canonical spec, batch.micro filled
  // For people: "batch.micro 32 fits 2 cpu workers (62.8 GiB) and 4 cuda workers (NVIDIA H100 80GB
  // HBM3, 79.09 GiB)"; of several workers of a kind the least memory.
  std::string planned_for;
};

// The spec with batch.micro filled, unless it is given: the greatest that fits all of `workers`,
// which are those that the job may be placed on. Precision auto: in each that they may resolve it
// to; either for a job that begins from a checkpoint, whose precision it may have to keep. None
// known: not limited, and by the formulas of the kind that the job wants, of the CPU for any.
// Errors: those of ChooseMicroBatch, naming the workers that it is too much for, and for a job that
// takes any device the kind that it would fit.
absl::StatusOr<FixedSpec> FixMicroBatch(absl::string_view serialized_job_spec,
                                        absl::Span<const DeviceLimits> workers);

}  // namespace vitscale

#endif  // WORKER_CONFIG_MICRO_BATCH_H_
