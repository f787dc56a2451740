// How much the control plane costs: simulated workers that heart-beat over real gRPC streams, jobs
// in the store, and users who submit and list.
//
//   control_plane_bench --workers 1000 --jobs 2000 --seconds 20 [--json]
//
// Starts a vitscaled of its own on loopback. Jobs ask for a GPU, which no simulated worker has:
// they stay in the queue and are looked at by every scheduling round. Prints latencies of submit
// and list, the coordinator's share of a core with heartbeats alone and under load, and its memory.

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/client_context.h"
#include "kernels/base/status.h"
#include "nlohmann/json.hpp"
#include "proto/rpc/channel_rpc.h"
#include "proto/spec/job_spec.h"
#include "tests/bench/control_plane/fleet_rpc.h"
#include "tests/e2e/process.h"
#include "vitscale/v1/control_service.grpc.pb.h"

namespace vitscale {
namespace {

constexpr char kJob[] = R"(name: bench
resources: {workers: {min: 1, max: 1}, device: cuda}
model: {variant: S/16, classes: 1000}
data: {train: {format: synthetic, synthetic_images: 100000}}
optimizer: {lr: 1e-3}
schedule: {total: 1000 steps}
batch: {global: 256, micro: 32}
)";

struct Options {
  int workers = 1000, jobs = 2000, seconds = 20;
  double submits_per_second = 10;
  bool json = false;
};

struct Latencies {
  std::vector<double> milliseconds;
  double Quantile(double q) {
    if (milliseconds.empty()) return 0;
    std::sort(milliseconds.begin(), milliseconds.end());
    return milliseconds[std::min(milliseconds.size() - 1,
                                 static_cast<size_t>(q * milliseconds.size()))];
  }
};

double CpuSeconds(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(in)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  double user = 0, system = 0;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double ResidentMiB(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/statm"));
  double total = 0, resident = 0;
  in >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 20);
}

class Bench {
 public:
  explicit Bench(Options options) : options_(options) {}
  ~Bench() {
    fleet_.reset();
    if (coordinator_ > 0) {
      kill(coordinator_, SIGTERM);
      if (!WaitForExit(coordinator_, absl::Seconds(30)).ok()) kill(coordinator_, SIGKILL);
    }
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  absl::Status Run() {
    VITSCALE_RETURN_IF_ERROR(StartCoordinator());
    VITSCALE_RETURN_IF_ERROR(FillStore());
    VITSCALE_ASSIGN_OR_RETURN(fleet_, Fleet::Start(address_, options_.workers, absl::Seconds(2)));
    absl::SleepFor(absl::Seconds(3));
    const double idle = CpuShare([&] { absl::SleepFor(absl::Seconds(options_.seconds)); });
    const int64_t beats_before = fleet_->beats_acknowledged();
    const double loaded = CpuShare([&] { LoadFor(absl::Seconds(options_.seconds)); });
    Report(idle, loaded, fleet_->beats_acknowledged() - beats_before);
    return failure_;
  }

 private:
  absl::Status StartCoordinator() {
    char folder[] = "/tmp/vitscale-bench-XXXXXX";
    folder_ = mkdtemp(folder);
    VITSCALE_ASSIGN_OR_RETURN(
        coordinator_,
        StartProgram(
            {absl::StrCat(VITSCALE_BINARY_DIR, "/vitscaled"), "--state-dir=" + folder_ + "/state",
             "--socket=" + folder_ + "/s", "--listen=127.0.0.1:0", "--metrics=127.0.0.1:0",
             "--ready-file=" + folder_ + "/ready.json"},
            {}, folder_ + "/vitscaled.log"));
    for (int i = 0; i < 200 && !std::filesystem::exists(folder_ + "/ready.json"); ++i) {
      absl::SleepFor(absl::Milliseconds(50));
    }
    std::ifstream in(folder_ + "/ready.json");
    const nlohmann::json ready = nlohmann::json::parse(in, nullptr, false);
    if (!ready.is_object())
      return absl::UnavailableError("vitscaled did not start; see " + folder_);
    VITSCALE_ASSIGN_OR_RETURN(address_, ParseAddress(ready.value("listen_address", "")));
    stub_ = v1::ControlService::NewStub(MakeChannel(address_));
    VITSCALE_ASSIGN_OR_RETURN(spec_, ParseJobSpec(kJob));
    return absl::OkStatus();
  }

  absl::Status FillStore() {
    for (int i = 0; i < options_.jobs; ++i) Submit(nullptr);
    return failure_;
  }

  void Submit(Latencies* latencies) {
    v1::SubmitJobRequest request;
    *request.mutable_spec() = spec_;
    request.set_request_id(absl::StrCat("bench-", ++requests_));
    v1::SubmitJobResponse response;
    Timed(latencies, [&](grpc::ClientContext& context) {
      return stub_->SubmitJob(&context, request, &response);
    });
  }
  void List(Latencies* latencies) {
    v1::ListJobsRequest request;
    v1::ListJobsResponse response;
    Timed(latencies, [&](grpc::ClientContext& context) {
      return stub_->ListJobs(&context, request, &response);
    });
  }
  template <typename Call>
  void Timed(Latencies* latencies, Call call) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    const absl::Time start = absl::Now();
    const grpc::Status status = call(context);
    if (latencies != nullptr)
      latencies->milliseconds.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
    if (!status.ok()) failure_ = absl::UnavailableError(status.error_message());
  }

  void LoadFor(absl::Duration duration) {
    const absl::Time end = absl::Now() + duration;
    const absl::Duration apart = absl::Seconds(1 / options_.submits_per_second);
    for (absl::Time next = absl::Now(); absl::Now() < end;) {
      Submit(&submit_);
      List(&list_);
      next += apart;
      absl::SleepFor(next - absl::Now());
    }
  }

  template <typename Work>
  double CpuShare(Work work) {
    const absl::Time start = absl::Now();
    const double before = CpuSeconds(coordinator_);
    work();
    return (CpuSeconds(coordinator_) - before) / absl::ToDoubleSeconds(absl::Now() - start);
  }

  void Report(double idle, double loaded, int64_t beats) {
    const nlohmann::json result = {
        {"workers", options_.workers},
        {"workers_alive", fleet_->alive()},
        {"jobs", options_.jobs},
        {"heartbeats_per_second", static_cast<double>(beats) / options_.seconds},
        {"submits_per_second", options_.submits_per_second},
        {"submit_p50_ms", submit_.Quantile(0.5)},
        {"submit_p99_ms", submit_.Quantile(0.99)},
        {"list_p50_ms", list_.Quantile(0.5)},
        {"list_p99_ms", list_.Quantile(0.99)},
        {"coordinator_cores_heartbeats", idle},
        {"coordinator_cores_loaded", loaded},
        {"coordinator_resident_mib", ResidentMiB(coordinator_)}};
    if (options_.json) {
      std::printf("%s\n", result.dump().c_str());
      return;
    }
    for (const auto& [key, value] : result.items())
      std::printf("%-30s %s\n", key.c_str(), value.dump().c_str());
  }

  const Options options_;
  std::string folder_;
  pid_t coordinator_ = 0;
  Address address_;
  v1::JobSpec spec_;
  std::unique_ptr<v1::ControlService::Stub> stub_;
  std::unique_ptr<Fleet> fleet_;
  Latencies submit_, list_;
  int64_t requests_ = 0;
  absl::Status failure_;
};

}  // namespace
}  // namespace vitscale

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  vitscale::Options options;
  CLI::App app("Measures the control plane with simulated workers.");
  app.add_option("--workers", options.workers, "simulated workers")->capture_default_str();
  app.add_option("--jobs", options.jobs, "jobs in the store")->capture_default_str();
  app.add_option("--seconds", options.seconds, "length of each of the two measurements")
      ->capture_default_str();
  app.add_option("--rate", options.submits_per_second, "submits (and lists) a second")
      ->capture_default_str();
  app.add_flag("--json", options.json, "one JSON object");
  CLI11_PARSE(app, argc, argv);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;  // one connection per worker; the coordinator inherits it
  setrlimit(RLIMIT_NOFILE, &files);
  const absl::Status status = vitscale::Bench(options).Run();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
