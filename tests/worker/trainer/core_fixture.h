// What tests of the trainer's core share: facts of a short run, and what its ranks have told.

#ifndef TESTS_WORKER_TRAINER_CORE_FIXTURE_H_
#define TESTS_WORKER_TRAINER_CORE_FIXTURE_H_

#include <algorithm>
#include <string>
#include <variant>
#include <vector>

#include "tests/status_matchers.h"
#include "tests/worker/trainer/fake_gang.h"
#include "worker/trainer/core/core.h"

namespace vitscale {

inline RunFacts Facts(int64_t total = 12, int64_t checkpoint_every = 4) {
  RunFacts facts;
  facts.total_steps = total;
  facts.batch_global = 8;
  facts.checkpoint_every = checkpoint_every;
  facts.plan_hash = 77;
  facts.job_hash = 88;
  facts.data_address = "127.0.0.1:1";
  return facts;
}

inline FakeState StateAfter(int64_t steps) {
  FakeState state;
  for (int64_t step = 1; step <= steps; ++step) state = {step, NextDigest(state.digest, step)};
  return state;
}

template <typename T>
std::vector<T> RecordsOf(const FakeGang::Rank& rank) {
  std::vector<T> found;
  for (const link::SpooledRecord& record : rank.records) {
    if (const T* value = std::get_if<T>(&record.record)) found.push_back(*value);
  }
  return found;
}

inline std::vector<int64_t> StepsEmitted(const FakeGang::Rank& rank) {
  std::vector<int64_t> steps;
  for (const link::StepRecord& record : RecordsOf<link::StepRecord>(rank))
    steps.push_back(record.step);
  return steps;
}

inline std::vector<int64_t> UpTo(int64_t last) {
  std::vector<int64_t> steps;
  for (int64_t step = 1; step <= last; ++step) steps.push_back(step);
  return steps;
}

inline std::vector<int64_t> ManifestSteps(const FakeGang& gang) {
  std::vector<int64_t> steps;
  for (const auto& [id, manifest] : gang.manifests) steps.push_back(manifest.state.step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

// Rank `rank` has begun the operation of that index among those of Action, which is not done.
inline bool InOperation(FakeGang& gang, int rank, size_t index) {
  return gang.rank(rank).alive() && gang.rank(rank).operation &&
         gang.rank(rank).operation->index() == index;
}
inline constexpr size_t kStepIndex = 3, kApplyIndex = 6;

}  // namespace vitscale

#endif  // TESTS_WORKER_TRAINER_CORE_FIXTURE_H_
