#include "worker/agent/flags.h"

#include <unistd.h>

#include <algorithm>
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

namespace vitscale::agent {
namespace {

constexpr int kUsageExit = 2;
constexpr size_t kWorkerIdMax = 63;
constexpr int64_t kSecretBytesMax = 4096;
constexpr int kThreadsMax = 1024;

constexpr char kExamples[] = R"(
Examples:
  vitscale-worker --threads=8 --data-root=/srv/data --checkpoint-root=/srv/checkpoints
  vitscale-worker --device=cuda0 --threads=8 --coordinator=10.0.0.1:7480 \
    --join-secret-file=/etc/vitscale/secret --data-root=/srv/data --checkpoint-root=/srv/checkpoints

Environment: VITSCALE_ADDRESS (as --coordinator).
Exit codes: 0 asked to leave and left, 1 it cannot start, 2 command line, 75 the device is held by
            somebody else, 78 bad configuration, 85 a newer agent has this worker id.)";

// Values as the user typed them.
struct Text {
  std::string coordinator, metrics = "127.0.0.1:0", join_secret_file;
  std::string lock_wait = "50s", grace = "120s", drain_grace = "150s", kill_interval = "10s",
              silence = "60s";
  std::vector<std::string> data_roots, checkpoint_roots;
};

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "localhost";
  return name;
}

// Only what a worker id may hold; a host name may be longer than that.
std::string DefaultWorkerId(const std::string& host, const std::string& device) {
  const size_t room = kWorkerIdMax - std::min(device.size() + 1, kWorkerIdMax - 1);
  std::string id = absl::StrCat(host.substr(0, room), "-", device);
  for (char& c : id) {
    if (!absl::ascii_isalnum(c) && c != '.' && c != '_' && c != '-') c = '-';
  }
  return id;
}

absl::Status CheckWorkerId(const std::string& id) {
  const bool valid = std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
  if (valid && !id.empty() && id.size() <= kWorkerIdMax && id != "." && id != "..") {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--worker-id '", id, "': expected 1 to 63 of [a-zA-Z0-9._-]"));
}

absl::Status ParseDurationFlag(const std::string& name, const std::string& text,
                               absl::Duration& duration) {
  if (absl::ParseDuration(text, &duration) && duration >= absl::ZeroDuration()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--", name, " '", text, "': expected a duration such as 90s or 2m"));
}

absl::StatusOr<std::vector<std::string>> ResolveRoots(const std::string& name,
                                                      const std::vector<std::string>& paths) {
  FileSystem& fs = PosixFileSystem();
  std::vector<std::string> roots;
  for (const std::string& path : paths) {
    const auto root = fs.RealPath(path);
    if (!root.ok()) return Annotate(root.status(), absl::StrCat("--", name));
    VITSCALE_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(*root));
    if (!info.is_directory) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " '", path, "': not a directory"));
    }
    roots.push_back(*root);
  }
  return roots;
}

absl::StatusOr<std::string> ReadSecret(const std::string& path) {
  if (path.empty()) return std::string();
  const auto text = PosixFileSystem().ReadFile(path, kSecretBytesMax);
  if (!text.ok()) return Annotate(text.status(), "--join-secret-file");
  return std::string(absl::StripAsciiWhitespace(*text));
}

// vitscale-trainer beside this program.
absl::StatusOr<std::string> FindTrainer(const std::string& given) {
  std::string path = given;
  if (path.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(const std::string self, PosixFileSystem().RealPath("/proc/self/exe"));
    path = JoinPath(DirectoryName(self), "vitscale-trainer");
  }
  const auto resolved = PosixFileSystem().RealPath(path);
  if (!resolved.ok()) return Annotate(resolved.status(), "trainer program");
  if (access(resolved->c_str(), X_OK) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("trainer program '", path, "': not executable"));
  }
  return *resolved;
}

void Declare(CLI::App& app, Flags& flags, Text& text) {
  app.add_option("--coordinator", text.coordinator,
                 "unix:/path or host:port; else VITSCALE_ADDRESS, else the default socket")
      ->envname("VITSCALE_ADDRESS");
  app.add_option("--device", flags.device, "cpu<i>, or cuda<i>, counted as nvidia-smi does")
      ->capture_default_str();
  app.add_option("--peak-tflops", flags.peak_tflops,
                 "What the card multiplies at most, for its share in /metrics; default: its data "
                 "sheet")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", flags.threads,
                 "Threads of a CPU device; of a card, those that read data")
      ->check(WholeNumber(1, kThreadsMax))
      ->capture_default_str();
  app.add_option("--worker-id", flags.worker_id, "Unique name; default <host>-<device>");
  app.add_option("--state-dir", flags.state_dir, "Spool of unacknowledged records");
  app.add_option("--lock-dir", flags.lock_dir, "Where <device>.lock lies");
  app.add_option("--data-root", text.data_roots, "Jobs may read below it; repeatable");
  app.add_option("--checkpoint-root", text.checkpoint_roots, "Jobs may write below it; repeatable");
  app.add_option("--metrics", text.metrics, "Address of /metrics; port 0: any")
      ->capture_default_str();
  app.add_option("--data-address", flags.data_address, "Interface of the data plane")
      ->capture_default_str();
  app.add_option("--join-secret-file", text.join_secret_file, "Secret of the cluster");
  app.add_option("--trainer", flags.trainer,
                 "Trainer program; default: vitscale-trainer beside this one");
  app.add_option("--instruction-set", flags.instruction_set,
                 "Highest to use: avx2, avx512, avx512_bf16")
      ->check(OneOfWords({"avx2", "avx512", "avx512_bf16"}));
  app.add_option("--grace", text.grace,
                 "From exit order to SIGKILL where the coordinator gives none")
      ->capture_default_str();
  app.add_option("--drain-grace", text.drain_grace, "From SIGTERM to SIGKILL of the trainer")
      ->capture_default_str();
  app.add_option("--kill-interval", text.kill_interval, "Between repeated SIGKILLs")
      ->capture_default_str();
  app.add_option("--silence", text.silence, "A trainer without a report for so long is killed")
      ->capture_default_str();
  app.add_option("--lock-wait", text.lock_wait, "How long to wait for the device")
      ->capture_default_str();
  app.add_option("--faults", flags.faults, "Faults to inject, for tests")->group("");
  app.add_option("--protocol-version", flags.protocol_version, "Version to claim, for tests")
      ->group("");
  app.add_flag("--insecure", flags.insecure, "Allow /metrics on an interface that others reach");
  app.set_version_flag("--version", "vitscale-worker " + VersionText());
}

absl::Status Resolve(const Text& text, Flags& flags) {
  const std::string coordinator =
      text.coordinator.empty() ? "unix:" + DefaultSocketPath() : text.coordinator;
  VITSCALE_ASSIGN_OR_RETURN(flags.coordinator, ParseAddress(coordinator));
  VITSCALE_ASSIGN_OR_RETURN(flags.metrics, ParseHostPort(text.metrics));
  if (!flags.insecure && !IsLoopback(flags.metrics.host)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--metrics ", text.metrics,
                     ": not a loopback address, and there is no TLS yet; --insecure allows it"));
  }
  // Must be an address of this machine; the socket is closed at once.
  VITSCALE_RETURN_IF_ERROR(Annotate(ListenTcp({flags.data_address, 0}).status(), "--data-address"));
  flags.host = HostName();
  if (flags.worker_id.empty()) flags.worker_id = DefaultWorkerId(flags.host, flags.device);
  VITSCALE_RETURN_IF_ERROR(CheckWorkerId(flags.worker_id));
  if (flags.state_dir.empty()) {
    flags.state_dir = JoinPath(JoinPath(DefaultStateDirectory(), "workers"), flags.worker_id);
  }
  if (flags.lock_dir.empty()) flags.lock_dir = DefaultLockDirectory();
  VITSCALE_ASSIGN_OR_RETURN(flags.data_roots, ResolveRoots("data-root", text.data_roots));
  VITSCALE_ASSIGN_OR_RETURN(flags.checkpoint_roots,
                            ResolveRoots("checkpoint-root", text.checkpoint_roots));
  VITSCALE_ASSIGN_OR_RETURN(flags.join_secret, ReadSecret(text.join_secret_file));
  VITSCALE_ASSIGN_OR_RETURN(flags.trainer, FindTrainer(flags.trainer));
  VITSCALE_RETURN_IF_ERROR(ParseDurationFlag("lock-wait", text.lock_wait, flags.lock_wait));
  VITSCALE_RETURN_IF_ERROR(ParseDurationFlag("grace", text.grace, flags.grace));
  VITSCALE_RETURN_IF_ERROR(ParseDurationFlag("drain-grace", text.drain_grace, flags.drain_grace));
  VITSCALE_RETURN_IF_ERROR(ParseDurationFlag("silence", text.silence, flags.silence_max));
  return ParseDurationFlag("kill-interval", text.kill_interval, flags.kill_interval);
}

}  // namespace

absl::StatusOr<Flags> ParseFlags(int argc, char** argv, FlagsExit& done) {
  CLI::App app("One worker: an agent that serves a vitscale coordinator with one device",
               "vitscale-worker");
  TidyHelp(app);
  app.footer(kExamples);
  Flags flags;
  Text text;
  Declare(app, flags, text);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, err;
    const int code = app.exit(error, out, err);
    done = code == 0 ? FlagsExit{0, out.str()} : FlagsExit{kUsageExit, err.str()};
    return absl::InvalidArgumentError(error.what());
  }
  VITSCALE_RETURN_IF_ERROR(Resolve(text, flags));
  return flags;
}

}  // namespace vitscale::agent
