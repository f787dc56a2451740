// vitscale-worker: one agent for one device. See worker/agent/README.md.
//
// Exit codes: 0 asked to leave and left · 1 it could not start (port taken, state directory, …) · 2
// usage · 75 the device is held by somebody else · 78 bad configuration (roots, join secret,
// protocol version) · 85 a newer agent with this worker id has registered.

#include <signal.h>
#include <sys/signalfd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/files.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/random.h"
#include "kernels/base/status.h"
#include "kernels/base/systemd.h"
#include "kernels/base/version.h"
#include "prometheus/exposer.h"
#include "worker/agent/agent.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/card_watch.h"
#include "worker/agent/device_info.h"
#include "worker/agent/device_lock.h"
#include "worker/agent/event_queue.h"
#include "worker/agent/flags.h"
#include "worker/agent/session_rpc.h"
#include "worker/agent/spool.h"
#include "worker/card/nvml.h"
#include "worker/card/peak.h"

namespace vitscale::agent {
namespace {

constexpr int kCannotStart = 1;
constexpr int kDeviceHeld = 75;
constexpr int kConfiguration = 78;
constexpr int kIncarnationCharacters = 16;

// SIGTERM and SIGINT become readable; blocked before any thread starts, so that every thread
// inherits it.
absl::StatusOr<UniqueFd> BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "signalfd");
  return fd;
}

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "vitscale-worker: %s\n", std::string(status.message()).c_str());
  return code;
}

// prometheus-cpp throws where it cannot bind.
absl::StatusOr<std::unique_ptr<prometheus::Exposer>> ServeMetrics(const HostPort& address) {
  try {
    return std::make_unique<prometheus::Exposer>(address.ToString());
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("serve /metrics on ", address.ToString(),
                                               ": address in use or not of this machine (",
                                               error.what(), ")"));
  }
}

v1::RegisterRequest MakeRegistration(const Flags& flags, const v1::DeviceInfo& device,
                                     const std::string& incarnation, int metrics_port) {
  v1::RegisterRequest request;
  request.set_protocol_version(flags.protocol_version);
  request.set_worker_id(flags.worker_id);
  request.set_incarnation(incarnation);
  request.set_join_secret(flags.join_secret);
  *request.mutable_device() = device;
  request.set_host(flags.host);
  request.set_version(VersionText());
  request.set_metrics_address(HostPort{flags.metrics.host, metrics_port}.ToString());
  request.set_data_address(flags.data_address);
  request.set_incarnation_start_millis(absl::ToUnixMillis(RealClock().Now()));
  request.set_device_lock_held(true);
  return request;
}

AgentConfig MakeConfig(const Flags& flags, int lock_fd) {
  AgentConfig config;
  TrainerOptions& trainer = config.core.trainer;
  trainer.setup = {.worker_id = flags.worker_id,
                   .device = flags.device,
                   .threads = flags.threads,
                   .data_roots = flags.data_roots,
                   .checkpoint_roots = flags.checkpoint_roots,
                   .data_address = flags.data_address,
                   .faults = flags.faults,
                   .instruction_set = flags.instruction_set};
  trainer.default_grace = flags.grace;
  trainer.kill_interval = flags.kill_interval;
  trainer.silence_max = flags.silence_max;
  config.core.drain_grace = flags.drain_grace;
  config.trainer_program = flags.trainer;
  config.lock_fd = lock_fd;
  config.status = [](const std::string& status) { NotifySystemd("STATUS=" + status); };
  config.watchdog_interval = SystemdWatchdogInterval();
  config.watchdog = [] { NotifySystemd("WATCHDOG=1"); };
  return config;
}

// What the flags call the device: as the coordinator is told, and how to ask about it.
struct Device {
  v1::DeviceInfo info;
  std::unique_ptr<Nvml> nvml;  // none for a CPU, as below
  int card_index = 0;
  Card card;  // as it was found
  std::optional<CardLimits> limits;
};

double PeakOf(const Flags& flags, const Card& card, bool bf16) {
  if (flags.peak_tflops > 0) return 1e12 * flags.peak_tflops;
  const auto peak = PeakOfCard(card.name, bf16);
  return peak ? peak->flops_per_second : 0;
}

// Trainers count cards as nvidia-smi does, all of them: which one they take is said by --device.
absl::StatusOr<Device> FindDevice(const Flags& flags) {
  Device device;
  VITSCALE_ASSIGN_OR_RETURN(const std::optional<int> card_index, CardIndexOf(flags.device));
  if (!card_index) {
    VITSCALE_ASSIGN_OR_RETURN(device.info, DescribeCpu(flags.device, flags.threads));
    return device;
  }
  setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", /*overwrite=*/1);
  unsetenv("CUDA_VISIBLE_DEVICES");
  device.card_index = *card_index;
  VITSCALE_ASSIGN_OR_RETURN(device.nvml, Nvml::Open());
  VITSCALE_ASSIGN_OR_RETURN(device.card, device.nvml->Read(device.card_index));
  const Card& card = device.card;
  setenv("VITSCALE_CARD_UUID", card.uuid.c_str(), /*overwrite=*/1);  // trainers take no other
  VITSCALE_ASSIGN_OR_RETURN(device.info, DescribeCard(flags.device, card, flags.threads));
  device.limits =
      CardLimits{card.memory_bytes, PeakOf(flags, card, true), PeakOf(flags, card, false)};
  return device;
}

// Jobs are placed here whatever roots this worker has: who starts it has to know.
void WarnOfMissingRoots(const Flags& flags) {
  if (flags.checkpoint_roots.empty()) {
    VITSCALE_LOG(WARNING) << "worker " << flags.worker_id
                          << " has no --checkpoint-root: no job can run here";
  } else if (flags.data_roots.empty()) {
    VITSCALE_LOG(WARNING) << "worker " << flags.worker_id
                          << " has no --data-root: only jobs with synthetic images can run here";
  }
}

int Run(const Flags& flags, int stop_fd) {
  auto device = FindDevice(flags);
  if (!device.ok())
    return Fail(Annotate(device.status(), absl::StrCat("--device ", flags.device)), kConfiguration);
  const auto lock = TakeDeviceLock(flags.lock_dir, flags.device, flags.lock_wait, stop_fd);
  if (absl::IsCancelled(lock.status())) return 0;
  if (absl::IsUnavailable(lock.status())) return Fail(lock.status(), kDeviceHeld);
  if (!lock.ok()) return Fail(lock.status(), kCannotStart);

  const std::string incarnation = RandomId(SystemRandom(), kIncarnationCharacters);
  const auto spool =
      Spool::Open(PosixFileSystem(),
                  {.directory = JoinPath(flags.state_dir, "spool"), .incarnation = incarnation});
  if (!spool.ok()) return Fail(Annotate(spool.status(), "--state-dir"), kCannotStart);

  // The exposer is destroyed last: its web server takes two seconds to stop.
  const auto exposer = ServeMetrics(flags.metrics);
  if (!exposer.ok()) return Fail(exposer.status(), kCannotStart);
  const auto metrics =
      std::make_shared<AgentMetrics>(flags.worker_id, flags.device, device->limits);
  (*exposer)->RegisterCollectable(metrics);
  const int metrics_port = (*exposer)->GetListeningPorts().at(0);

  EventQueue queue;
  Agent agent(MakeConfig(flags, lock->get()), RealClock(), SystemRandom(), **spool, *metrics,
              queue);
  if (device->nvml) agent.SeeCard(device->card);  // before the coordinator hears of the worker
  const auto coordinator = ConnectCoordinator(
      flags.coordinator, MakeRegistration(flags, device->info, incarnation, metrics_port),
      agent.Sink());
  VITSCALE_LOG(INFO) << "worker " << flags.worker_id << " incarnation " << incarnation
                     << ", device " << flags.device << " (" << device->info.model() << ", "
                     << device->info.instruction_set() << ", " << flags.threads
                     << " threads), coordinator " << flags.coordinator.ToString() << ", metrics "
                     << HostPort{flags.metrics.host, metrics_port}.ToString();
  WarnOfMissingRoots(flags);
  std::unique_ptr<CardWatch> watch;
  if (device->nvml) {
    watch = std::make_unique<CardWatch>(
        std::move(device->nvml),
        CardWatchOptions{.card = device->card_index, .uuid = device->card.uuid},
        [&agent](const absl::StatusOr<Card>& card) { agent.SeeCard(card); });
  }
  NotifySystemd("READY=1");
  const int code = agent.Run(*coordinator, stop_fd);
  watch.reset();
  NotifySystemd("STOPPING=1");
  VITSCALE_LOG(INFO) << "worker " << flags.worker_id << " ends with code " << code;
  return code;
}

}  // namespace
}  // namespace vitscale::agent

int main(int argc, char** argv) {
  using namespace vitscale;
  std::signal(SIGPIPE, SIG_IGN);
  SetLogName("vitscale-worker");
  const auto stop_fd = agent::BlockStopSignals();
  if (!stop_fd.ok()) return agent::Fail(stop_fd.status(), agent::kCannotStart);
  agent::FlagsExit done{.code = -1};
  const auto flags = agent::ParseFlags(argc, argv, done);
  if (done.code >= 0) {
    std::fputs(done.text.c_str(), done.code == 0 ? stdout : stderr);
    return done.code;
  }
  if (!flags.ok()) return agent::Fail(flags.status(), agent::kConfiguration);
  return agent::Run(*flags, stop_fd->get());
}
