#include "tests/e2e/chaos.h"

#include <signal.h>

#include <algorithm>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/base/status.h"
#include "tests/e2e/verify_checkpoints.h"

namespace vitscale {
namespace {

constexpr absl::Duration kJobDeadline = absl::Seconds(120);

// Watches which trainer processes a cluster runs, until told to stop counting.
class TrainerCensus {
 public:
  explicit TrainerCensus(const Cluster& cluster) : cluster_(cluster) {}
  std::vector<ProcessInfo> Take() {
    std::vector<ProcessInfo> now = cluster_.Trainers();
    for (const ProcessInfo& trainer : now) seen_.insert(trainer.pid);
    return now;
  }
  int different() const { return static_cast<int>(seen_.size()); }

 private:
  const Cluster& cluster_;
  std::set<pid_t> seen_;
};

bool MomentReached(const Cluster& cluster, const Kill& kill, const std::string& job,
                   absl::Time random_moment) {
  const auto step_is = [&](int64_t step) { return cluster.JobStep(job) >= step; };
  switch (kill.moment) {
    case Moment::kStarting:
      return cluster.JobState(job) != "QUEUED";
    case Moment::kTraining:
      return step_is(100 + 37 * static_cast<int64_t>(kill.seed % 10));
    case Moment::kCheckpoint:
      return step_is(kill.checkpoint_every - 20);
    case Moment::kFinishing:
      return step_is(kill.steps - 100);
    case Moment::kRandom:
      return absl::Now() >= random_moment;
  }
  return true;
}

absl::Status WaitForMoment(const Cluster& cluster, const Kill& kill, const std::string& job,
                           std::mt19937_64& draws, TrainerCensus& census) {
  const double share = std::uniform_real_distribution<double>(0, 1)(draws);
  const absl::Time random_moment = absl::Now() + absl::Seconds(4 * share);
  const absl::Time end = absl::Now() + kJobDeadline;
  while (!MomentReached(cluster, kill, job, random_moment)) {
    census.Take();
    if (absl::Now() > end) return absl::DeadlineExceededError("the moment to kill did not come");
    absl::SleepFor(absl::Milliseconds(5));
  }
  return absl::OkStatus();
}

// Kills the victim; how many trainers died with it.
absl::StatusOr<int> Strike(Cluster& cluster, Victim victim, std::mt19937_64& draws,
                           TrainerCensus& census) {
  if (victim == Victim::kCoordinator) {
    cluster.KillCoordinator();
    VITSCALE_RETURN_IF_ERROR(cluster.StartCoordinator());
    return 0;
  }
  const std::vector<ProcessInfo> trainers = census.Take();
  const std::vector<ProcessInfo> victims = victim == Victim::kTrainer ? trainers : cluster.Agents();
  if (victims.empty()) return 0;  // nobody there at this moment: a kill of nothing
  const ProcessInfo chosen = victims[draws() % victims.size()];
  const int with_it = static_cast<int>(
      std::count_if(trainers.begin(), trainers.end(), [&](const ProcessInfo& trainer) {
        return trainer.pid == chosen.pid || trainer.parent == chosen.pid;
      }));
  kill(chosen.pid, SIGKILL);
  return with_it;
}

absl::Status WaitForEnd(const Cluster& cluster, const std::string& job, TrainerCensus& census) {
  const absl::Time end = absl::Now() + kJobDeadline;
  while (true) {
    census.Take();
    const std::string state = cluster.JobState(job);
    if (state == "SUCCEEDED") return absl::OkStatus();
    if (state == "FAILED" || state == "CANCELLED") {
      return absl::InternalError(
          absl::StrCat("job ", job, " ended ", state, ": ", cluster.GetJob(job).dump()));
    }
    if (absl::Now() > end) {
      return absl::DeadlineExceededError(absl::StrCat("job ", job, " is ", state, " at step ",
                                                      cluster.JobStep(job), ": ",
                                                      cluster.CoordinatorLog()));
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
}

absl::Status CheckSteps(const Cluster& cluster, const std::string& job, int64_t steps) {
  const std::vector<nlohmann::json> rows = cluster.Steps(job, steps);
  if (static_cast<int64_t>(rows.size()) != steps) {
    return absl::DataLossError(
        absl::StrCat("store holds ", rows.size(), " step records, want ", steps));
  }
  for (int64_t i = 0; i < steps; ++i) {
    if (JsonInt(rows[i]["step"]) != i + 1) {
      return absl::DataLossError(absl::StrCat("record ", i, " is step ", rows[i].dump()));
    }
  }
  return absl::OkStatus();
}

absl::Status WaitUntilTrainersAreGone(const Cluster& cluster) {
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (!cluster.Trainers().empty()) {
    if (absl::Now() > end) return absl::InternalError("a trainer outlived its job");
    absl::SleepFor(absl::Milliseconds(20));
  }
  return absl::OkStatus();
}

}  // namespace

const char* VictimName(Victim victim) {
  constexpr const char* kNames[] = {"trainer", "agent", "coordinator"};
  return kNames[static_cast<int>(victim)];
}
const char* MomentName(Moment moment) {
  constexpr const char* kNames[] = {"starting", "training", "checkpoint", "finishing", "random"};
  return kNames[static_cast<int>(moment)];
}

absl::Status RunKill(Cluster& cluster, const Kill& kill, KillReport* report) {
  std::mt19937_64 draws(kill.seed);
  TrainerCensus census(cluster);
  const absl::Time start = absl::Now();
  VITSCALE_ASSIGN_OR_RETURN(report->job,
                            cluster.Submit(TinyJob(kill.steps, kill.checkpoint_every)));
  VITSCALE_RETURN_IF_ERROR(WaitForMoment(cluster, kill, report->job, draws, census));
  report->state_at_kill = cluster.JobState(report->job);
  report->step_at_kill = cluster.JobStep(report->job);
  VITSCALE_ASSIGN_OR_RETURN(report->killed_ranks, Strike(cluster, kill.victim, draws, census));
  VITSCALE_RETURN_IF_ERROR(WaitForEnd(cluster, report->job, census));
  report->seconds = absl::ToDoubleSeconds(absl::Now() - start);
  report->trainers_seen = census.different();
  report->recoveries = JsonInt(cluster.GetJob(report->job).value("recoveries", nlohmann::json(0)));
  VITSCALE_RETURN_IF_ERROR(CheckSteps(cluster, report->job, kill.steps));
  VITSCALE_RETURN_IF_ERROR(WaitUntilTrainersAreGone(cluster));
  VITSCALE_RETURN_IF_ERROR(VerifyCheckpoints(cluster.folder() + "/checkpoints"));
  if (report->trainers_seen > 2 + report->killed_ranks) {
    return absl::InternalError(absl::StrCat(report->trainers_seen, " trainers were seen, want 2 + ",
                                            report->killed_ranks, ": a survivor lost its process"));
  }
  return absl::OkStatus();
}

}  // namespace vitscale
