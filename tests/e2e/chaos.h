// One kill at one moment of one short job, and everything that must hold afterwards.

#ifndef TESTS_E2E_CHAOS_H_
#define TESTS_E2E_CHAOS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "tests/e2e/cluster.h"

namespace vitscale {

enum class Victim { kTrainer, kAgent, kCoordinator };
// When the kill falls: while trainers start, while they train, around the save of a checkpoint,
// near the end.
enum class Moment { kStarting, kTraining, kCheckpoint, kFinishing, kRandom };

const char* VictimName(Victim victim);
const char* MomentName(Moment moment);

struct Kill {
  Victim victim = Victim::kTrainer;
  Moment moment = Moment::kRandom;
  uint64_t seed = 0;     // which of the two workers, and the exact moment
  int64_t steps = 2500;  // of the job: a few seconds
  int64_t checkpoint_every = 250;
};

struct KillReport {
  std::string job;
  std::string state_at_kill;  // of the job
  int64_t step_at_kill = 0;
  int killed_ranks = 0;   // trainers that died with the victim
  int trainers_seen = 0;  // different trainer processes during the job
  int64_t recoveries = 0;
  double seconds = 0;  // from submit to SUCCEEDED
};

// Submits, kills, waits, and checks: SUCCEEDED; steps 1..n in the store, each once; survivors kept
// their process, so that different trainers seen = 2 + ranks killed; every checkpoint with a
// manifest is whole; no process of the job is left. Returns the first of these that does not hold.
absl::Status RunKill(Cluster& cluster, const Kill& kill, KillReport* report);

}  // namespace vitscale

#endif  // TESTS_E2E_CHAOS_H_
