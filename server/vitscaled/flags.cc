#include "server/vitscaled/flags.h"

#include <map>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/command_line.h"
#include "kernels/base/defaults.h"
#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "server/api/rpc_server.h"

namespace vitscale {
namespace {

constexpr int64_t kSecretBytesMax = 4096;
constexpr int kLocalWorkersMax = 256;
constexpr int kThreadsMax = 1024;

constexpr char kExamples[] = R"(
Examples:
  vitscaled --local-workers=2 --data-root=/srv/data --checkpoint-root=/srv/checkpoints
  vitscaled --listen=10.0.0.1:7480 --insecure --join-secret-file=/etc/vitscale/secret

SIGTERM: local workers let their jobs save a checkpoint and leave; jobs go on at the next start.
Exit codes: 0 asked to leave and left, 1 failed, 2 command line, 78 bad configuration.)";

struct DurationFlag {
  const char* name;
  const char* help;
  absl::Duration* value;
  std::string text = "";
};

std::vector<DurationFlag> Durations(ServerFlags& flags) {
  CoreOptions& core = flags.core;
  return {
      {"--heartbeat", "Between heartbeats of an agent", &core.heartbeat},
      {"--lease", "Silence after which a worker is unreachable", &core.lease},
      {"--orphan-window", "How long a trainer goes on without the coordinator",
       &core.orphan_window},
      {"--ownership-margin", "Added to the orphan window before a device counts as free",
       &core.ownership_margin},
      {"--ready-deadline", "An agent that comes back within it keeps its place",
       &core.ready_deadline},
      {"--rendezvous-deadline", "For the ranks of a generation to meet", &core.rendezvous_deadline},
      {"--prepare-deadline", "From placement to a built plan", &core.prepare_deadline},
      {"--advance-deadline", "An unreachable member breaks a generation that stands still so long",
       &core.advance_deadline},
      {"--exit-grace", "For a trainer that has nothing to save", &core.exit_grace},
      {"--quarantine-after", "A device not free so long after the kill is quarantined",
       &core.quarantine_after},
      {"--backoff-min", "Between attempts that made no progress, first", &core.backoff_min},
      {"--backoff-max", "Between attempts that made no progress, at most", &core.backoff_max},
      {"--reservation-after", "The first in line gets workers kept for it",
       &core.reservation_after},
      {"--stop-grace", "From SIGTERM to SIGKILL of local workers", &flags.stop_grace},
  };
}

absl::StatusOr<std::string> ReadSecret(const std::string& path) {
  if (path.empty()) return std::string();
  const auto text = PosixFileSystem().ReadFile(path, kSecretBytesMax);
  if (!text.ok()) return Annotate(text.status(), "--join-secret-file");
  const std::string secret(absl::StripAsciiWhitespace(*text));
  if (secret.empty())
    return absl::InvalidArgumentError(absl::StrCat("--join-secret-file '", path, "' is empty"));
  return secret;
}

absl::StatusOr<std::string> FindWorkerProgram(const std::string& given) {
  std::string path = given;
  if (path.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(const std::string self, PosixFileSystem().RealPath("/proc/self/exe"));
    path = JoinPath(DirectoryName(self), "vitscale-worker");
  }
  const auto resolved = PosixFileSystem().RealPath(path);
  if (!resolved.ok()) return Annotate(resolved.status(), "--local-workers: worker program");
  return *resolved;
}

absl::StatusOr<std::vector<std::string>> ResolveRoots(const std::string& name,
                                                      const std::vector<std::string>& paths) {
  std::vector<std::string> roots;
  for (const std::string& path : paths) {
    const auto root = PosixFileSystem().RealPath(path);
    if (!root.ok()) return Annotate(root.status(), name);
    roots.push_back(*root);
  }
  return roots;
}

absl::Status Resolve(const std::vector<DurationFlag>& durations, const std::string& listen,
                     const std::string& metrics, ServerFlags& flags) {
  for (const DurationFlag& duration : durations) {
    if (duration.text.empty()) continue;
    if (!absl::ParseDuration(duration.text, duration.value) ||
        *duration.value < absl::ZeroDuration()) {
      return absl::InvalidArgumentError(absl::StrCat(duration.name, " was '", duration.text,
                                                     "', wanted a duration such as 90s or 2m"));
    }
  }
  VITSCALE_RETURN_IF_ERROR(flags.core.Check());
  const auto address = ParseHostPort(listen);
  if (!address.ok()) return Annotate(address.status(), "--listen");
  flags.listen = *address;
  const auto metrics_address = ParseHostPort(metrics);
  if (!metrics_address.ok()) return Annotate(metrics_address.status(), "--metrics");
  flags.metrics = *metrics_address;
  VITSCALE_RETURN_IF_ERROR(CheckExposure("--listen", flags.listen, flags.insecure));
  VITSCALE_RETURN_IF_ERROR(CheckExposure("--metrics", flags.metrics, flags.insecure));
  if (flags.lock_dir.empty()) flags.lock_dir = JoinPath(DirectoryName(flags.socket), "locks");
  VITSCALE_ASSIGN_OR_RETURN(flags.join_secret, ReadSecret(flags.join_secret_file));
  if (flags.local_workers > 0) {
    VITSCALE_ASSIGN_OR_RETURN(flags.worker_program, FindWorkerProgram(flags.worker_program));
  }
  VITSCALE_ASSIGN_OR_RETURN(flags.data_roots, ResolveRoots("--data-root", flags.data_roots));
  VITSCALE_ASSIGN_OR_RETURN(flags.checkpoint_roots,
                            ResolveRoots("--checkpoint-root", flags.checkpoint_roots));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ServerFlags> ParseServerFlags(int argc, const char* const* argv,
                                             ServerFlagsExit& done) {
  ServerFlags flags;
  flags.state_dir = DefaultStateDirectory();
  flags.socket = DefaultSocketPath();
  flags.stop_grace = absl::Seconds(160);
  std::string listen = absl::StrCat("127.0.0.1:", kDefaultGrpcPort);
  std::string metrics = absl::StrCat("127.0.0.1:", kDefaultMetricsPort);
  std::vector<DurationFlag> durations = Durations(flags);

  CLI::App app("The vitscale coordinator: takes jobs, gives them workers, keeps them running",
               "vitscaled");
  TidyHelp(app);
  app.footer(kExamples);
  app.add_option("--state-dir", flags.state_dir, "Jobs, events, steps; one coordinator at a time")
      ->capture_default_str();
  app.add_option("--socket", flags.socket, "Unix socket of users and agents on this machine")
      ->capture_default_str();
  app.add_option("--listen", listen, "gRPC; port 0: any")->capture_default_str();
  app.add_option("--metrics", metrics, "HTTP: /metrics and /sd/workers; port 0: any")
      ->capture_default_str();
  app.add_flag("--insecure", flags.insecure,
               "Allow addresses that others reach; there is no TLS yet");
  bool no_reflection = false;
  app.add_flag("--no-reflection", no_reflection, "Do not describe the services to tools");
  app.add_option("--join-secret-file", flags.join_secret_file, "Agents must know its content");
  app.add_option("--ready-file", flags.ready_file,
                 "JSON with the chosen addresses, written when serving");
  app.add_option("--local-workers", flags.local_workers,
                 "Agents to run on this machine, one CPU device each")
      ->check(WholeNumber(0, kLocalWorkersMax))
      ->capture_default_str();
  app.add_option("--local-threads", flags.local_threads, "Threads of each of them")
      ->check(WholeNumber(1, kThreadsMax))
      ->capture_default_str();
  app.add_option("--data-root", flags.data_roots,
                 "Local workers: jobs may read below it; repeatable");
  app.add_option("--checkpoint-root", flags.checkpoint_roots,
                 "Local workers: jobs may write below it; repeatable");
  app.add_option("--lock-dir", flags.lock_dir,
                 "Local workers: device locks; default: \"locks\" beside the socket");
  app.add_option("--worker-program", flags.worker_program,
                 "Default: vitscale-worker beside this program");
  app.add_option("--worker-flag", flags.worker_flags, "Given to every local worker; repeatable");
  for (DurationFlag& duration : durations) {
    app.add_option(duration.name, duration.text,
                   absl::StrCat(duration.help, " [", absl::FormatDuration(*duration.value), "]"));
  }
  app.set_version_flag("--version", "vitscaled " + VersionText());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, err;
    const int code = app.exit(error, out, err);
    done = {true, code == 0 ? 0 : 2, code == 0 ? out.str() : err.str()};
    return flags;
  }
  flags.reflection = !no_reflection;
  VITSCALE_RETURN_IF_ERROR(Resolve(durations, listen, metrics, flags));
  return flags;
}

}  // namespace vitscale
