#include "worker/bench/checkpoint_bench.h"

#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/path.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "worker/bench/timed_files.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {
namespace {

using Phases = std::map<std::string, std::vector<double>>;

// A tensor of the state, and its copy on the host.
struct StateCopy {
  std::string name;
  TensorView view;
  std::unique_ptr<std::byte[]> bytes;
};

// Parameters and moments, not copied yet.
std::vector<StateCopy> StateOf(const BenchReplica& replica) {
  const ParamTable& table = replica.plan.layout.table;
  std::vector<StateCopy> state;
  const auto add = [&](const char* prefix, const Parameter& parameter, TensorView view) {
    if (!view.present() || view.elements() == 0) return;
    state.push_back({absl::StrCat(prefix, parameter.name), std::move(view), nullptr});
  };
  for (const Parameter& parameter : table.parameters()) {
    add(kParameterPrefix, parameter, table.ParameterView(parameter));
    add(kMomentumPrefix, parameter, table.MomentumView(parameter));
    add(kSecondMomentPrefix, parameter, table.SecondMomentView(parameter));
  }
  return state;
}

// Copies aside, into memory that is new each time: as the trainer does it.
absl::Status Snapshot(const BenchReplica& replica, std::vector<StateCopy>& state) {
  for (StateCopy& tensor : state) {
    tensor.bytes = std::make_unique_for_overwrite<std::byte[]>(tensor.view.bytes());
    VITSCALE_RETURN_IF_ERROR(replica.backend->Read(
        tensor.view, absl::MakeSpan(tensor.bytes.get(), tensor.view.bytes())));
  }
  return absl::OkStatus();
}

std::vector<NamedTensor> Named(const std::vector<StateCopy>& state) {
  std::vector<NamedTensor> named;
  for (const StateCopy& tensor : state) {
    named.push_back({tensor.name, tensor.view.dtype, tensor.view.shape,
                     absl::MakeConstSpan(tensor.bytes.get(), tensor.view.bytes())});
  }
  return named;
}

class Saver {
 public:
  Saver(const BenchReplica& replica, TimedFiles& fs, CheckpointStore store)
      : replica_(replica), fs_(fs), store_(std::move(store)) {}

  absl::Status Save(int64_t step) {
    const CheckpointName name{0, 0, step, false};
    std::vector<StateCopy> state = StateOf(replica_);
    VITSCALE_RETURN_IF_ERROR(Timed("snapshot", [&] { return Snapshot(replica_, state); }));
    CheckpointManifest manifest;
    manifest.job_id = store_.job_id();
    manifest.name = name;
    manifest.version = VersionText();
    VITSCALE_RETURN_IF_ERROR(WritePart(name, Named(state), manifest));
    VITSCALE_RETURN_IF_ERROR(Timed("manifest", [&] { return store_.WriteManifest(manifest); }));
    VITSCALE_RETURN_IF_ERROR(Timed("verify", [&] { return store_.Verify(name); }));
    bytes_ = manifest.total_bytes();
    return RemoveTree(fs_, store_.PathOf(name));
  }
  const Phases& phases() const { return phases_; }
  int64_t bytes() const { return bytes_; }

 private:
  absl::Status WritePart(const CheckpointName& name, const std::vector<NamedTensor>& state,
                         CheckpointManifest& manifest) {
    fs_.TakeSyncSeconds();
    absl::Status status;
    const double seconds = SecondsOf([&] {
      status = store_.Begin(name);
      if (!status.ok()) return;
      auto part = store_.WritePart(name, 0, 1, state);
      status = part.status();
      if (part.ok()) manifest.files.push_back(*std::move(part));
    });
    const double sync = fs_.TakeSyncSeconds();
    phases_["write"].push_back(seconds - sync);
    phases_["sync"].push_back(sync);
    return status;
  }
  template <typename Call>
  absl::Status Timed(const char* phase, Call&& call) {
    absl::Status status;
    phases_[phase].push_back(SecondsOf([&] { status = call(); }));
    return status;
  }

  const BenchReplica& replica_;
  TimedFiles& fs_;
  CheckpointStore store_;
  Phases phases_;
  int64_t bytes_ = 0;
};

nlohmann::json Report(const CheckpointOptions& options, const BenchReplica& replica,
                      const std::string& directory, const Saver& saver) {
  nlohmann::json phases;
  for (const auto& [phase, seconds] : saver.phases()) phases[phase] = Median(seconds);
  const auto seconds = [&](const char* phase) { return phases[phase].get<double>(); };
  const double bytes = static_cast<double>(saver.bytes());
  const nlohmann::json model = Describe(options.run, replica);
  return {{"model", model["model"]},
          {"optimizer", model["optimizer"]},
          {"parameters", model["parameters"]},
          {"directory", directory},
          {"bytes", saver.bytes()},
          {"stall_seconds", seconds("snapshot")},
          {"bytes_per_second", bytes / (seconds("write") + seconds("sync") + seconds("manifest"))},
          {"verify_bytes_per_second", bytes / seconds("verify")},
          {"phases", phases},
          {"peak_rss_bytes", PeakResidentBytes()}};
}

}  // namespace

void AddCheckpointFlags(CLI::App& command, CheckpointOptions& o) {
  command.add_option("--dir", o.directory,
                     "Where to write (made if missing; what is written is removed again). Default: "
                     "a temporary directory");
  AddShapeFlags(command, o.run);
  AddDeviceFlag(command, o.run);
  AddRunFlags(command, o.run);
}

absl::StatusOr<nlohmann::json> BenchCheckpoint(const CheckpointOptions& options) {
  BenchOptions run = options.run;
  run.batch = 1;  // the state does not depend on it
  VITSCALE_ASSIGN_OR_RETURN(const BenchReplica replica, MakeBenchReplica(run));
  std::optional<TemporaryDirectory> temporary;
  if (options.directory.empty()) temporary.emplace();
  const std::string directory = temporary ? temporary->path() : AbsolutePath(options.directory);
  TimedFiles fs(PosixFileSystem());
  // A job id of this process: nobody else's checkpoints are touched.
  const std::string job_id = absl::StrCat("bench", getpid());
  auto store = CheckpointStore::Open(fs, directory, job_id);
  if (!store.ok()) return Annotate(store.status(), absl::StrCat("--dir '", directory, "'"));
  const std::string job_path = store->JobPath();
  Saver saver(replica, fs, *std::move(store));
  absl::Status saved;
  for (int64_t i = 0; i < run.steps && saved.ok(); ++i) saved = saver.Save(i + 1);
  const absl::Status removed = RemoveTree(fs, job_path);
  VITSCALE_RETURN_IF_ERROR(saved);
  VITSCALE_RETURN_IF_ERROR(removed);
  return Report(options, replica, directory, saver);
}

}  // namespace vitscale
