#include "tests/e2e/cluster.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr char kClusterVariable[] = "VITSCALE_TEST_CLUSTER";

std::string ReadText(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

template <typename Condition>
absl::Status WaitUntil(absl::Duration deadline, const std::string& what, Condition condition) {
  const absl::Time end = absl::Now() + deadline;
  while (!condition()) {
    if (absl::Now() > end) return absl::DeadlineExceededError(what);
    absl::SleepFor(absl::Milliseconds(30));
  }
  return absl::OkStatus();
}

}  // namespace

std::string Binary(const std::string& name) { return absl::StrCat(VITSCALE_BINARY_DIR, "/", name); }

int64_t JsonInt(const nlohmann::json& value) {
  int64_t number = 0;
  if (value.is_number()) return value.get<int64_t>();
  if (value.is_string()) (void)absl::SimpleAtoi(value.get<std::string>(), &number);
  return number;
}

std::vector<nlohmann::json> ParseJsonLines(const std::string& text) {
  std::vector<nlohmann::json> rows;
  nlohmann::json whole = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (whole.is_array()) return {whole.begin(), whole.end()};
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    nlohmann::json row = nlohmann::json::parse(line, nullptr, false);
    if (!row.is_discarded()) rows.push_back(std::move(row));
  }
  return rows;
}

std::string TinyJob(int64_t steps, int64_t checkpoint_every) {
  return absl::StrFormat(R"(name: tiny
resources: {workers: {min: 2, max: 2}, device: cpu}
model: {custom: {patch: 4, width: 32, depth: 2, heads: 2, mlp_width: 64}, image_size: 16, channels: 1, classes: 4}
data: {train: {format: synthetic, synthetic_images: 1024}}
optimizer: {name: adafactor, lr: 1e-3}
schedule: {name: rsqrt, warmup: 2 steps, timescale: 100 steps, total: %d steps}
batch: {global: 32}
precision: f32
evals: [{name: val, kind: classify, data: {format: synthetic, synthetic_images: 101}}]
checkpoint: {dir: tiny, every: %d steps, keep: {last: 3}}
)",
                         steps, checkpoint_every);
}

Cluster::Cluster(ClusterOptions options) : options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<Cluster>> Cluster::Start(ClusterOptions options) {
  std::unique_ptr<Cluster> cluster(new Cluster(std::move(options)));
  std::string folder = "/tmp/vitscale-cluster-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return absl::InternalError("mkdtemp");
  cluster->folder_ = folder;
  std::filesystem::create_directories(folder + "/checkpoints");
  VITSCALE_RETURN_IF_ERROR(cluster->StartCoordinator());
  return cluster;
}

Cluster::~Cluster() {
  for (int round = 0; round < 100 && !Everything().empty(); ++round) {
    for (const ProcessInfo& process : Everything()) kill(process.pid, SIGKILL);
    absl::SleepFor(absl::Milliseconds(20));
  }
  if (coordinator_ > 0) (void)WaitForExit(coordinator_, absl::Seconds(5));
  if (getenv("VITSCALE_KEEP_TEST_FILES") == nullptr && !folder_.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
}

Environment Cluster::environment() const {
  return {{kClusterVariable, folder_}, {"VITSCALE_ADDRESS", address()}, {"NO_COLOR", "1"}};
}

absl::Status Cluster::StartCoordinator() {
  const std::string ready = folder_ + "/ready.json";
  std::filesystem::remove(ready);
  std::vector<std::string> arguments = {Binary("vitscaled"),
                                        "--state-dir=" + folder_ + "/state",
                                        "--socket=" + folder_ + "/s",
                                        "--listen=127.0.0.1:0",
                                        "--metrics=127.0.0.1:0",
                                        absl::StrCat("--local-workers=", options_.workers),
                                        "--local-threads=1",
                                        "--data-root=" + options_.data_root,
                                        "--checkpoint-root=" + folder_ + "/checkpoints",
                                        "--ready-file=" + ready,
                                        "--heartbeat=200ms",
                                        "--lease=2s"};
  for (const std::string& flag : options_.coordinator_flags) arguments.push_back(flag);
  VITSCALE_ASSIGN_OR_RETURN(coordinator_,
                            StartProgram(arguments, environment(), folder_ + "/vitscaled.log"));
  absl::Status started = WaitUntil(absl::Seconds(30), "coordinator not ready", [&] {
    return std::filesystem::exists(ready) || !IsAlive(coordinator_);
  });
  if (!started.ok() || !std::filesystem::exists(ready)) {
    return absl::UnavailableError(absl::StrCat("vitscaled did not start: ", CoordinatorLog()));
  }
  nlohmann::json chosen = nlohmann::json::parse(ReadText(ready), nullptr, false);
  metrics_address_ = chosen.value("metrics_address", "");
  return absl::OkStatus();
}

absl::Status Cluster::StopCoordinator() {
  kill(coordinator_, SIGTERM);
  VITSCALE_RETURN_IF_ERROR(WaitForExit(coordinator_, absl::Seconds(60)).status());
  coordinator_ = 0;
  return WaitUntil(absl::Seconds(5), "processes are left after the coordinator stopped",
                   [&] { return Everything().empty(); });
}

void Cluster::KillCoordinator() {
  kill(coordinator_, SIGKILL);
  (void)WaitForExit(coordinator_, absl::Seconds(10));
  coordinator_ = 0;
}

CommandResult Cluster::Cli(std::vector<std::string> arguments, absl::Duration deadline,
                           const std::string& input) const {
  arguments.insert(arguments.begin(), Binary("vitscale"));
  Environment variables = environment();
  variables.erase(kClusterVariable);
  return RunCommand(arguments, variables, deadline, input);
}

nlohmann::json Cluster::GetJob(const std::string& job) const {
  CommandResult result = Cli({"get", job, "-o", "json"}, absl::Seconds(10));
  if (result.exit_code != 0) return nullptr;
  nlohmann::json parsed = nlohmann::json::parse(result.out, nullptr, false);
  return parsed.is_discarded() ? nlohmann::json() : parsed;
}

std::string Cluster::JobState(const std::string& job) const {
  nlohmann::json found = GetJob(job);
  if (!found.is_object() || !found.contains("state")) return "";
  return std::string(absl::StripPrefix(found["state"].get<std::string>(), "JOB_STATE_"));
}

int64_t Cluster::JobStep(const std::string& job) const {
  nlohmann::json found = GetJob(job);
  return found.is_object() && found.contains("step") ? JsonInt(found["step"]) : 0;
}

absl::StatusOr<std::string> Cluster::Submit(const std::string& yaml,
                                            std::vector<std::string> flags) const {
  std::vector<std::string> arguments = {"submit", "-", "-q"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  CommandResult result = Cli(arguments, absl::Seconds(20), yaml);
  if (result.exit_code != 0) {
    return absl::InvalidArgumentError(absl::StrCat("submit: ", result.exit_code, " ", result.err));
  }
  return std::string(absl::StripAsciiWhitespace(result.out));
}

absl::Status Cluster::WaitForState(const std::string& job, const std::vector<std::string>& states,
                                   absl::Duration deadline) const {
  std::string last;
  absl::Status status = WaitUntil(deadline, "", [&] {
    const std::string now = JobState(job);
    if (!now.empty()) last = now;
    return std::find(states.begin(), states.end(), last) != states.end();
  });
  if (status.ok()) return status;
  return absl::DeadlineExceededError(absl::StrCat(
      "job ", job, " is ", last, " at step ", JobStep(job), "; coordinator: ", CoordinatorLog()));
}

absl::Status Cluster::WaitForStep(const std::string& job, int64_t step,
                                  absl::Duration deadline) const {
  return WaitUntil(deadline, absl::StrCat("job ", job, " did not reach step ", step),
                   [&] { return JobStep(job) >= step; });
}

std::vector<nlohmann::json> Cluster::Steps(const std::string& job, int64_t wanted) const {
  std::vector<nlohmann::json> rows;
  (void)WaitUntil(absl::Seconds(20), "", [&] {
    rows = ParseJsonLines(Cli({"logs", job, "--steps", "-o", "json"}).out);
    return static_cast<int64_t>(rows.size()) >= wanted;
  });
  return rows;
}

std::vector<ProcessInfo> Cluster::Everything() const {
  return ProcessesWithEnvironment(kClusterVariable, folder_);
}
std::vector<ProcessInfo> Cluster::Agents() const {
  std::vector<ProcessInfo> agents;
  for (ProcessInfo& process : Everything()) {
    if (process.program == "vitscale-worker") agents.push_back(process);
  }
  return agents;
}
std::vector<ProcessInfo> Cluster::Trainers() const {
  std::vector<ProcessInfo> trainers;
  for (ProcessInfo& process : Everything()) {
    if (process.program == "vitscale-trainer") trainers.push_back(process);
  }
  return trainers;
}

std::string Cluster::CoordinatorLog() const {
  const std::string log = ReadText(folder_ + "/vitscaled.log");
  return log.size() > 4000 ? log.substr(log.size() - 4000) : log;
}

}  // namespace vitscale
