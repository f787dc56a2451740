// The gate between the exchange of a step and its update: what the records of all ranks say
// together.
//
// No parameter, moment, counter or statistic of the run changes unless CheckRecords returns OK for
// the generation and step at hand. Pure functions.

#ifndef WORKER_TRAINER_CORE_GATE_H_
#define WORKER_TRAINER_CORE_GATE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/collective/control_record.h"
#include "worker/link/messages.h"

namespace vitscale {

// Who exchanges; equal on all ranks but for `rank`.
struct GenerationIdentity {
  uint64_t job_hash = 0;
  int64_t attempt = 0;
  int64_t generation = 0;
  uint64_t plan_hash = 0;
  int rank = 0;
  int world_size = 1;
};

// A record that carries the identity and the step and nothing else.
ControlRecord MakeRecord(const GenerationIdentity& identity, int64_t step);

// What every rank knows after the exchange, and every rank the same.
struct Agreement {
  double loss_sum = 0;  // of the records, added in rank order
  int64_t images = 0;
  int64_t correct = 0;
  bool stop = false, checkpoint = false, regroup = false;  // somebody voted for it
  bool non_finite = false;                                 // somebody's loss is not finite
  std::optional<uint64_t> digest;                          // exchanged, and the same everywhere
  std::vector<double> arrival_skew_seconds;                // by rank, after the first to arrive
};

// `images`: what the images of all ranks must add up to; 0 in a closing exchange.
// Errors: FAILED_PRECONDITION "rank 1 is at step 12, want 13": a record is missing, of another
// layout, job, attempt, generation, step, plan or rank. DATA_LOSS "digest of step 12 differs on
// rank 2 …": the replicas are no longer the same.
absl::StatusOr<Agreement> CheckRecords(const GenerationIdentity& identity, int64_t step,
                                       bool closing, int64_t images,
                                       absl::Span<const ControlRecord> records);

// Ranks whose digest is not that of a strict majority; all of them where there is none. Empty: all
// agree, or no digest was exchanged.
std::vector<int> DigestMinority(absl::Span<const ControlRecord> records);

// After a synchronisation: every rank must hold the same state. A version is compared whole: equal
// step is not equal state. DATA_LOSS names the rank that differs from rank 0.
absl::Status CheckVersions(absl::Span<const link::StateVersion> versions);

}  // namespace vitscale

#endif  // WORKER_TRAINER_CORE_GATE_H_
