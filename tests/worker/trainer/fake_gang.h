// Trainer cores of one gang in one thread: a fake wire, a fake disk and a fake replica (its state
// is a step and a digest that depends on every update before it). The test plays coordinator and
// decides what fails when.

#ifndef TESTS_WORKER_TRAINER_FAKE_GANG_H_
#define TESTS_WORKER_TRAINER_FAKE_GANG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "worker/trainer/core/core.h"

namespace vitscale {

struct FakeState {
  int64_t step = 0;
  uint64_t digest = 1;
  bool operator==(const FakeState&) const = default;
};

// The digest after applying `step` to a state with `digest`.
uint64_t NextDigest(uint64_t digest, int64_t step);

class FakeGang {
 public:
  struct Rank {
    std::unique_ptr<TrainerCore> core;
    std::optional<Action> operation;  // under way
    bool connected = false;           // has a communicator
    bool aborted = false;             // … on which Abort was called
    FakeState state;
    std::vector<link::SpooledRecord> records;
    std::vector<std::string> log;  // names of actions, in order
    std::optional<ExitNote> exit;

    bool alive() const { return core != nullptr && !exit; }
  };

  FakeGang(int ranks, RunFacts facts);

  Rank& rank(int i) { return ranks_[i]; }
  int size() const { return static_cast<int>(ranks_.size()); }

  // ---- the coordinator's part ----
  void Order(int rank, link::Stage stage, int64_t generation,
             const std::function<void(link::DesiredState&)>& edit = nullptr);
  // PREPARE, FORM and GO for all ranks, from the newest manifest; stops short if somebody dies.
  void Form(int64_t generation);
  // What Form tells: the newest manifest, or initialisation.
  link::Source NewestSource() const;

  // ---- what happens ----
  // Lets one thing end: an operation of one rank, a collective one of all ranks, a part, a
  // manifest. False: all wait for something from outside.
  bool Turn();
  void RunUntilQuiet();
  // Until the condition holds; false if everything stood still before.
  bool RunUntil(const std::function<bool()>& condition);
  // The process of `rank` is gone; its peers' collective operations fail.
  void Kill(int rank);
  void Restart(int rank);
  // Feeds an event to one core and takes its actions.
  void Feed(int rank, const CoreEvent& event);
  // Ends the operation of `rank` like this.
  template <typename Event>
  void End(int rank, const Event& event) {
    ranks_[rank].operation.reset();
    Feed(rank, event);
  }

  // Asked before an operation of a rank ends; a status that is not OK makes it fail.
  std::function<Outcome(int rank, const Action& operation)> fail = nullptr;
  // Looks at a record on its way out and may falsify it.
  std::function<void(int rank, ControlRecord& record)> falsify = nullptr;
  // Parts of these ranks do not end while it is set; part_status is how they end.
  std::set<int> held_parts;
  std::function<absl::Status(int rank, int64_t step)> part_status = nullptr;
  absl::Status manifest_status;
  std::set<std::pair<int, int64_t>> non_finite;  // (rank, step) whose loss is not finite

  struct Manifest {
    int64_t generation = 0;
    FakeState state;
  };
  std::map<std::string, Manifest> manifests;  // by checkpoint id
  std::vector<std::pair<int, int64_t>>
      durable_parts;  // (rank, step) in the order in which they became durable
  absl::Time now = absl::UnixEpoch();

 private:
  struct Part {
    int64_t generation = 0;
    int64_t step = 0;
    FakeState state;
  };

  bool Local(int i);
  bool Together(int i);
  bool Background(int i);
  void EndTogether(const std::vector<int>& members);
  Outcome FailureOf(int i);
  ControlRecord Complete(int i, ControlRecord record, bool closing);

  const RunFacts facts_;
  std::vector<Rank> ranks_;
  std::vector<std::optional<Part>> parts_;                     // being written, by rank
  std::optional<std::pair<int, WriteManifestNote>> manifest_;  // being written, by whom
  std::map<int64_t, FakeState> snapshots_;                     // by step
};

}  // namespace vitscale

#endif  // TESTS_WORKER_TRAINER_FAKE_GANG_H_
