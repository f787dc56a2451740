// vitscale-train: the engine without coordinator. One job file; ranks by flags, or all in one
// process.
//
//   vitscale-train job.yaml --data-root=/data --checkpoint-root=/runs
//   vitscale-train job.yaml … --world-size=2 --rank=0 --rendezvous=host:29500     (and the same
//   with --rank=1)
//
// Exit codes: those of a trainer (0 done, 75 stopped with a checkpoint, 78 what was asked for
// cannot be, a device that is not there included, 82 a rank was lost: start again to go on, 83 a
// device failed), 2 for flags or a job file that are wrong, 84 also where --steps-csv cannot be
// written.
//
// A run goes on from the newest checkpoint of its job in checkpoint.dir; what has changed in the
// job file since is told, not refused.

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/command_line.h"
#include "kernels/base/log.h"
#include "kernels/base/net.h"
#include "kernels/base/path.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "worker/config/changed_fields.h"
#include "worker/config/job_config.h"
#include "worker/plan/plan.h"
#include "worker/trainer/device_name.h"
#include "worker/trainer/shell.h"
#include "worker/trainer/standalone.h"
#include "worker/trainer/train_output.h"

namespace vitscale {
namespace {

constexpr int kUsage = 2;
constexpr int kRanksMax = 1024;
constexpr int kThreadsMax = 1024;
constexpr char kDataRoot[] = "--data-root", kCheckpointRoot[] = "--checkpoint-root";

constexpr char kExamples[] = R"(
Examples:
  vitscale-train job.yaml --data-root=/srv/data --checkpoint-root=/srv/checkpoints
  vitscale-train job.yaml --set optimizer.lr=1e-3 --steps-csv=steps.csv --device=cuda:0
  vitscale-train job.yaml --world-size=2 --rank=0 --rendezvous=10.0.0.1:29500     and so with --rank=1

The same command goes on from the newest checkpoint of its job.
Exit codes: 0 done, 2 command line or job file, 75 stopped with a checkpoint, 78 bad configuration,
            80 data, 81 loss not finite, 82 a rank was lost: start again to go on, 83 device,
            84 checkpoint storage.)";

struct Flags {
  std::string job;
  std::vector<std::string> overrides;
  std::string job_id;
  int rank = 0, world_size = 1, threads = 0;
  std::string rendezvous, data_address = "127.0.0.1";
  double rendezvous_timeout_seconds = 120;
  std::vector<std::string> data_roots, checkpoint_roots;
  std::string device, steps_csv, faults, instruction_set, transport = "auto";
  uint64_t pretended_host = 0;
  bool quiet = false, no_bar = false;
  bool told_world_size = false;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", VersionText());
  app.add_option("job", flags.job, "Job file: YAML, JSON or textproto")->required();
  app.add_option("--set", flags.overrides,
                 "Override a field: --set optimizer.lr=1e-3 (repeatable)");
  app.add_option("--job-id", flags.job_id,
                 "Names the checkpoint folder; default: made from the job's name");
  app.add_option("--rank", flags.rank, "Place among the ranks")
      ->check(WholeNumber(0, kRanksMax - 1));
  app.add_option("--world-size", flags.world_size, "Number of ranks; replaces resources.workers")
      ->check(WholeNumber(1, kRanksMax));
  app.add_option("--rendezvous", flags.rendezvous,
                 "Where rank 0 listens: host:port, or a file that all ranks see");
  app.add_option("--rendezvous-timeout", flags.rendezvous_timeout_seconds,
                 "Seconds to wait for all ranks")
      ->check(NumberAboveZero());
  app.add_option("--data-address", flags.data_address, "Interface that data-plane sockets bind to");
  app.add_option("--transport", flags.transport,
                 "How ranks exchange gradients, the same for all: auto (shared memory on one host, "
                 "TCP between hosts), shared_memory, gloo (TCP)")
      ->check(OneOfWords({"auto", "shared_memory", "gloo"}))
      ->capture_default_str();
  app.add_option("--pretended-host", flags.pretended_host, "Ranks of another number, for tests")
      ->group("");
  app.add_option(kDataRoot, flags.data_roots,
                 "Folder below which data may be read (repeatable; default .)");
  app.add_option(kCheckpointRoot, flags.checkpoint_roots,
                 "Folder below which checkpoints are written (default .)");
  app.add_option("--device", flags.device,
                 "cpu, cuda or cuda:<index>, counted as nvidia-smi does; without an index the "
                 "rank's. Default: what resources.device says, and cpu for any");
  app.add_option("--threads", flags.threads, "Threads of this rank; default: all cores")
      ->check(WholeNumber(1, kThreadsMax));
  app.add_option("--instruction-set", flags.instruction_set,
                 "Highest to use: avx2, avx512, avx512_bf16")
      ->check(OneOfWords({"avx2", "avx512", "avx512_bf16"}));
  app.add_option("--steps-csv", flags.steps_csv,
                 "Write every committed step to this file (rank 0); a run that goes on goes on in "
                 "it");
  app.add_option("--faults", flags.faults, "Faults to inject, for tests")->group("");
  app.add_flag("--quiet,-q", flags.quiet, "Print the result only");
  app.add_flag("--no-bar", flags.no_bar, "Plain lines on a terminal too");
}

int Complain(const absl::Status& status, int code) {
  fprintf(stderr, "vitscale-train: %s\n", std::string(status.message()).c_str());
  return code;
}

absl::Status CheckFlags(const Flags& flags) {
  if (flags.rank >= flags.world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rank is ", flags.rank, ", want less than --world-size ", flags.world_size));
  }
  if (flags.world_size > 1 && flags.rendezvous.empty()) {
    return absl::InvalidArgumentError(
        "--world-size above 1 needs --rendezvous=host:port or a file");
  }
  if (!flags.rendezvous.empty() && !absl::StrContains(flags.rendezvous, '/') &&
      !ParseHostPort(flags.rendezvous).ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rendezvous: was \"", flags.rendezvous,
                     "\", wanted host:port, or the path of a file such as ./rendezvous"));
  }
  // Must be an address of this machine; the socket is closed at once.
  return Annotate(ListenTcp({flags.data_address, 0}).status(), "--data-address");
}

// A job for several workers and no word of the others: that may be meant, or forgotten.
void TellAlone(const Flags& flags) {
  const auto own = LoadJobConfig(flags.job, flags.overrides);
  if (!own.ok() || own->workers == 1) return;
  VITSCALE_LOG(WARNING) << "resources.workers is " << own->workers
                        << ", but this rank trains alone: there is no --world-size";
}

// What has changed in the job file since the checkpoint that the run goes on from.
void TellChanges(const StartPoint& start, const JobConfig& job) {
  if (!start.checkpoint) return;
  const std::vector<std::string> changes = ChangedFields(start.checkpoint->manifest.spec, job);
  if (changes.empty()) return;
  VITSCALE_LOG(WARNING) << "going on from checkpoint " << start.checkpoint->id
                        << " with another job than the one it was saved by: "
                        << absl::StrJoin(changes, "; ");
}

// True where the checkpoint has as many steps as the job wants, or more.
bool NothingToDo(const StartPoint& start, const JobConfig& job, int64_t total_steps) {
  return job.kind == JobKind::kPretrain && start.checkpoint &&
         start.checkpoint->manifest.name.step >= total_steps;
}

// SIGINT and SIGTERM are blocked in every thread and taken here.
void WaitForSignals(const sigset_t& set, StandaloneDriver& driver) {
  int number = 0;
  while (sigwait(&set, &number) == 0) {
    fprintf(stderr,
            "\nvitscale-train: %s: saving a checkpoint at the next agreed step; again to leave at "
            "once\n",
            number == SIGINT ? "interrupted" : "asked to stop");
    driver.RequestStop();
  }
}

void PrintResult(const TrainOutput& output, const StandaloneDriver& driver) {
  if (const auto& numerics = driver.observed().numerics;
      numerics && numerics->world_size > 1 && !numerics->collective.empty())
    printf("ranks      %d, %s\n", numerics->world_size, numerics->collective.c_str());
  if (output.last_step()) {
    printf("steps      %ld\nloss       %.6f\n", static_cast<long>(output.last_step()->step),
           output.last_step()->loss);
  }
  if (const std::string phases = output.PhasesText(); !phases.empty())
    printf("phases     %s\n", phases.c_str());
  for (const auto& [name, eval] : output.evals()) {
    for (const auto& [value_name, value] : eval.values) {
      printf("%-10s %.4f\n", absl::StrCat(name, ".", value_name).c_str(), value);
    }
  }
  if (!driver.observed().checkpoint.empty())
    printf("checkpoint %s\n", driver.observed().checkpoint.c_str());
}

int Train(const Flags& flags, const sigset_t& signals) {
  if (absl::Status status = CheckFlags(flags); !status.ok()) return Complain(status, kUsage);
  std::vector<std::string> overrides = flags.overrides;
  overrides.push_back(absl::StrCat("resources.workers.min=", flags.world_size));
  overrides.push_back(absl::StrCat("resources.workers.max=", flags.world_size));
  const auto job = LoadJobConfig(flags.job, overrides);
  if (!job.ok()) return Complain(job.status(), kUsage);
  if (!flags.told_world_size) TellAlone(flags);
  const auto device = DeviceOfRank(flags.device, job->wanted_device, flags.rank);
  if (!device.ok()) return Complain(device.status(), kUsage);

  StandaloneOptions standalone;
  standalone.job_id = flags.job_id.empty() ? StandaloneJobId(job->name) : flags.job_id;
  standalone.spec_bytes = job->canonical_bytes;
  standalone.rank = flags.rank;
  standalone.world_size = flags.world_size;
  standalone.rendezvous = flags.rendezvous;
  standalone.rendezvous_timeout = absl::Seconds(flags.rendezvous_timeout_seconds);
  standalone.setup.worker_id = absl::StrCat("rank", flags.rank);
  standalone.setup.device = *device;
  standalone.setup.threads = flags.threads > 0 ? flags.threads : UsableCores();
  standalone.setup.data_address = flags.data_address;
  standalone.setup.faults = flags.faults;
  standalone.setup.instruction_set = flags.instruction_set;
  for (const auto& [flag, given, roots] :
       {std::tuple{kDataRoot, &flags.data_roots, &standalone.setup.data_roots},
        std::tuple{kCheckpointRoot, &flags.checkpoint_roots, &standalone.setup.checkpoint_roots}}) {
    for (const std::string& root : given->empty() ? std::vector<std::string>{"."} : *given) {
      const auto real = PosixFileSystem().RealPath(root);
      if (!real.ok()) return Complain(Annotate(real.status(), flag), kUsage);
      roots->push_back(*real);
    }
  }
  const auto start = FindStartPoint(PosixFileSystem(), standalone.setup.checkpoint_roots,
                                    job->checkpoint.dir, standalone.job_id);
  if (!start.ok()) return Complain(start.status(), static_cast<int>(link::TrainerExit::kStorage));
  standalone.attempt = start->attempt;
  if (flags.rank == 0) TellChanges(*start, *job);

  const bool talks = flags.rank == 0 && !flags.quiet;
  TrainOutput output(isatty(STDERR_FILENO) && !flags.no_bar, !talks);
  if (!flags.steps_csv.empty() && flags.rank == 0) {
    if (absl::Status status = output.OpenCsv(flags.steps_csv); !status.ok())
      return Complain(status, kUsage);
  }
  TrainerShell* shell = nullptr;
  StandaloneDriver driver(
      standalone, [&shell](CoreEvent event) { shell->Post(std::move(event)); },
      [&output](const link::SpooledRecord& record) { output.OnRecord(record); });
  ShellOptions options;
  options.sink = &driver;
  options.transport = TransportOf(flags.transport);
  options.pretended_host = flags.pretended_host;
  options.by_hand = true;
  const auto listen = ParseHostPort(flags.rendezvous);
  if (flags.rank == 0 && flags.world_size > 1 && listen.ok()) options.data_port = listen->port;
  options.on_exchange = [&output](int64_t step, uint64_t hash) { output.OnSamples(step, hash); };
  bool nothing_to_do = false;
  options.log_error = false;  // told below
  options.on_prepared = [&](const Engine& engine) {
    output.SetTotal(engine.total_steps());
    nothing_to_do = NothingToDo(*start, *job, engine.total_steps());
    if (talks && !nothing_to_do)
      fputs(PlanText(*engine.plan(), {flags.world_size}).c_str(), stderr);
  };
  TrainerShell the_shell(options);
  shell = &the_shell;
  std::thread([&signals, &driver] { WaitForSignals(signals, driver); }).detach();
  driver.Start();
  int code = driver.ExitCode(the_shell.Run());
  output.Finish();
  const absl::Status csv = output.CloseCsv();
  if (!csv.ok()) {
    const int failed = Complain(csv, static_cast<int>(link::TrainerExit::kStorage));
    if (code == 0) code = failed;
  }
  std::string error = driver.error().empty() ? the_shell.error() : driver.error();
  if (code == static_cast<int>(link::TrainerExit::kData)) {
    absl::StrAppend(&error, "; looked for below ", kDataRoot, "=",
                    absl::StrJoin(standalone.setup.data_roots, ", "));
  }
  if (!error.empty())
    fprintf(stderr, "vitscale-train: %s: %s\n", link::DescribeExit(code).c_str(), error.c_str());
  if (flags.rank == 0 && code == 0 && nothing_to_do) {
    printf("nothing to do: %ld of %ld steps are done\n",
           static_cast<long>(start->checkpoint->manifest.name.step),
           static_cast<long>(output.total_steps()));
  }
  if (flags.rank == 0) PrintResult(output, driver);
  fflush(nullptr);
  _exit(code);  // the signal thread waits for ever
}

}  // namespace
}  // namespace vitscale

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  vitscale::SetLogName("vitscale-train");
  vitscale::CountCardsByBus();
  vitscale::Flags flags;
  CLI::App app("Trains a Vision Transformer without a coordinator", "vitscale-train");
  vitscale::TidyHelp(app);
  app.footer(vitscale::kExamples);
  vitscale::AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fprintf(stderr, "vitscale-train: %s\nRun with --help for more.\n", error.what());
    return vitscale::kUsage;
  }
  flags.told_world_size = app.count("--world-size") > 0;
  return vitscale::Train(flags, signals);
}
