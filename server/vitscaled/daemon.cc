#include "server/vitscaled/daemon.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "nlohmann/json.hpp"

namespace vitscale {
namespace {

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const ServerFlags& flags) {
  std::unique_ptr<Daemon> daemon(new Daemon(flags));
  VITSCALE_RETURN_IF_ERROR(daemon->Open());
  VITSCALE_RETURN_IF_ERROR(daemon->Serve());
  daemon->StartLocalWorkers();
  VITSCALE_RETURN_IF_ERROR(daemon->WriteReadyFile());
  daemon->ready_ = !flags.ready_file.empty();
  return daemon;
}

Daemon::~Daemon() { Stop(absl::ZeroDuration()); }

absl::Status Daemon::Open() {
  VITSCALE_ASSIGN_OR_RETURN(StateDirectory state, StateDirectory::Open(flags_.state_dir));
  state_ = std::make_unique<StateDirectory>(std::move(state));
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<ControlStore> control,
                            ControlStore::Open(state_->control_path()));
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<StepStore> steps,
                            StepStore::Open(state_->steps_path()));
  coordinator_ = std::make_unique<Coordinator>(
      Coordinator::Options{flags_.core, flags_.join_secret}, std::move(control), std::move(steps),
      SystemRandom(), RealClock());
  return absl::OkStatus();
}

absl::Status Daemon::Serve() {
  VITSCALE_RETURN_IF_ERROR(coordinator_->Start());
  Coordinator* coordinator = coordinator_.get();
  VITSCALE_ASSIGN_OR_RETURN(
      metrics_, MetricsServer::Start(flags_.metrics,
                                     {[coordinator] { return coordinator->metrics().Text(); },
                                      [coordinator] { return coordinator->WorkersSnapshot(); }}));
  coordinator_->SetMetricsAddress(metrics_->address().ToString());
  RpcServerOptions options;
  options.unix_path = flags_.socket;
  options.listen = flags_.listen;
  options.insecure = flags_.insecure;
  options.reflection = flags_.reflection;
  VITSCALE_ASSIGN_OR_RETURN(server_, RpcServer::Start(options, *coordinator_));
  return absl::OkStatus();
}

void Daemon::StartLocalWorkers() {
  if (flags_.local_workers == 0) return;
  LocalWorkersOptions options;
  options.count = flags_.local_workers;
  options.program = flags_.worker_program;
  options.id_prefix = absl::StrCat(HostName().substr(0, 50), "-");
  options.lock_directory = flags_.lock_dir;
  options.state_directory = JoinPath(flags_.state_dir, "workers");
  // Every living agent holds its lock, so a free one already says that there is nobody to wait for.
  options.first_start = absl::ZeroDuration();
  options.flags = {
      absl::StrCat("--coordinator=unix:", flags_.socket),
      absl::StrCat("--threads=", flags_.local_threads)};  // LocalWorkers adds the lock directory
  for (const std::string& root : flags_.data_roots) options.flags.push_back("--data-root=" + root);
  for (const std::string& root : flags_.checkpoint_roots)
    options.flags.push_back("--checkpoint-root=" + root);
  if (!flags_.join_secret_file.empty())
    options.flags.push_back("--join-secret-file=" + flags_.join_secret_file);
  options.flags.insert(options.flags.end(), flags_.worker_flags.begin(), flags_.worker_flags.end());
  local_ = std::make_unique<LocalWorkers>(options, RealClock());
}

absl::Status Daemon::WriteReadyFile() const {
  if (flags_.ready_file.empty()) return absl::OkStatus();
  const nlohmann::json ready = {{"listen_address", server_->address().ToString()},
                                {"socket", flags_.socket},
                                {"metrics_address", metrics_->address().ToString()},
                                {"state_directory", state_->path()},
                                {"term", coordinator_->term()},
                                {"pid", getpid()}};
  return WriteFileAtomically(PosixFileSystem(), flags_.ready_file, ready.dump() + "\n");
}

void Daemon::Stop(absl::Duration grace) {
  if (std::exchange(stopped_, true)) return;
  if (ready_) unlink(flags_.ready_file.c_str());
  if (local_ != nullptr) {
    // The server goes on serving: agents drain their jobs through it.
    const absl::Status status = local_->Stop(grace);
    if (!status.ok()) VITSCALE_LOG(ERROR) << status.message();
    local_.reset();
  }
  if (server_ != nullptr) {
    server_->SetServing(false);
    coordinator_->RefuseAfter(absl::Milliseconds(500));
    server_->Shutdown(absl::Seconds(1));
  }
  if (coordinator_ != nullptr) coordinator_->Stop();
}

}  // namespace vitscale
