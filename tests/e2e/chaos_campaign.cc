// The long form of chaos_test: many kills at random moments, one table row each.
//
//   chaos_campaign --kills 50 --seed 1
//
// Victims go round (trainer, agent, coordinator); the seed of each kill is printed, and `--kills 1
// --seed S` repeats it. Exit code 1 when any kill breaks a promise.

#include <csignal>
#include <cstdio>
#include <memory>

#include "CLI/CLI.hpp"
#include "tests/e2e/chaos.h"

int main(int argc, char** argv) {
  using namespace vitscale;
  std::signal(SIGPIPE, SIG_IGN);
  int kills = 50;
  uint64_t seed = 1;
  CLI::App app("Kills trainers, agents and coordinators at random moments of short jobs.");
  app.add_option("--kills", kills, "how many")->capture_default_str();
  app.add_option("--seed", seed, "seed of the first kill; the others follow")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  absl::StatusOr<std::unique_ptr<Cluster>> cluster = Cluster::Start();
  if (!cluster.ok()) {
    std::fprintf(stderr, "%s\n", cluster.status().ToString().c_str());
    return 1;
  }
  int failures = 0;
  std::printf(
      "seed  victim       job           at          step  ranks  trainers  recoveries  seconds  "
      "result\n");
  for (int i = 0; i < kills; ++i) {
    Kill kill;
    kill.seed = seed + i;
    kill.victim = static_cast<Victim>(kill.seed % 3);
    KillReport report;
    const absl::Status status = RunKill(**cluster, kill, &report);
    failures += !status.ok();
    std::printf("%4llu  %-11s  %-12s  %-10s  %4lld  %5d  %8d  %10lld  %7.1f  %s\n",
                static_cast<unsigned long long>(kill.seed), VictimName(kill.victim),
                report.job.c_str(), report.state_at_kill.c_str(),
                static_cast<long long>(report.step_at_kill), report.killed_ranks,
                report.trainers_seen, static_cast<long long>(report.recoveries), report.seconds,
                status.ToString().c_str());
    std::fflush(stdout);
  }
  const absl::Status stopped = (*cluster)->StopCoordinator();
  std::printf("%d kills, %d failed; after the stop: %s\n", kills, failures,
              stopped.ToString().c_str());
  return failures == 0 && stopped.ok() ? 0 : 1;
}
