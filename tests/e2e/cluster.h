// A whole vitscale on loopback for a test: one coordinator with local workers, real processes, real
// files.
//
// Everything lives below one temporary folder and carries VITSCALE_TEST_CLUSTER=<folder> in its
// environment, so that the test can find every process, however deep, and prove that none is left.

#ifndef TESTS_E2E_CLUSTER_H_
#define TESTS_E2E_CLUSTER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tests/e2e/process.h"

namespace vitscale {

struct ClusterOptions {
  int workers = 2;
  std::vector<std::string>
      coordinator_flags;  // beside the defaults of cluster.cc (short deadlines)
  std::string data_root = "/usr/share/datasets";
};

class Cluster {
 public:
  static absl::StatusOr<std::unique_ptr<Cluster>> Start(ClusterOptions options = {});
  ~Cluster();  // kills what is left, removes the folder (kept when VITSCALE_KEEP_TEST_FILES is set)

  absl::Status StartCoordinator();
  // SIGTERM and wait: everything must be gone afterwards.
  absl::Status StopCoordinator();
  void KillCoordinator();  // SIGKILL, reaped

  // Runs `vitscale <arguments>` against this cluster.
  CommandResult Cli(std::vector<std::string> arguments, absl::Duration deadline = absl::Seconds(60),
                    const std::string& input = "") const;
  // `vitscale get -o json`; null when it failed.
  nlohmann::json GetJob(const std::string& job) const;
  std::string JobState(
      const std::string& job) const;  // "RUNNING"; empty when the coordinator is away
  int64_t JobStep(const std::string& job) const;

  // Submits a job file's text; its id.
  absl::StatusOr<std::string> Submit(const std::string& yaml,
                                     std::vector<std::string> flags = {}) const;
  // Polls until the job is in one of `states`.
  absl::Status WaitForState(const std::string& job, const std::vector<std::string>& states,
                            absl::Duration deadline) const;
  absl::Status WaitForStep(const std::string& job, int64_t step, absl::Duration deadline) const;

  // Step records of a job in the store, once at least `wanted` are there or 20 s have passed:
  // records reach the store in batches, the last ones a moment after the job has ended.
  std::vector<nlohmann::json> Steps(const std::string& job, int64_t wanted) const;

  std::vector<ProcessInfo> Agents() const;
  std::vector<ProcessInfo> Trainers() const;
  std::vector<ProcessInfo> Everything() const;

  const std::string& folder() const { return folder_; }
  const std::string& metrics_address() const { return metrics_address_; }
  std::string address() const { return "unix:" + folder_ + "/s"; }
  std::string CoordinatorLog() const;
  pid_t coordinator() const { return coordinator_; }

 private:
  explicit Cluster(ClusterOptions options);
  Environment environment() const;

  ClusterOptions options_;
  std::string folder_;
  std::string metrics_address_;
  pid_t coordinator_ = 0;
};

// The path of a program of this build.
std::string Binary(const std::string& name);

// A number from JSON, which protobuf writes as a string when it has 64 bits.
int64_t JsonInt(const nlohmann::json& value);
// The scalars of a StepRecord list as `vitscale logs --steps -o json` prints them, by step.
std::vector<nlohmann::json> ParseJsonLines(const std::string& text);

// A job that takes a few seconds: a tiny ViT on synthetic images, two workers.
std::string TinyJob(int64_t steps, int64_t checkpoint_every = 20);

}  // namespace vitscale

#endif  // TESTS_E2E_CLUSTER_H_
