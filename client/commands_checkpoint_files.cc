// checkpoints show, verify: folders of this machine, no coordinator.

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/checkpoint_files.h"
#include "client/checkpoint_text.h"
#include "client/command.h"
#include "client/text.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"
#include "nlohmann/json.hpp"
#include "worker/config/job_config.h"

namespace vitscale {
namespace {

using Json = nlohmann::ordered_json;

struct ShowFlags {
  std::string checkpoint;
  bool tensors = false, spec = false;
};

absl::StatusOr<int> Show(Context& context, const ShowFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "checkpoints show", kTextOrJson));
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointFolder folder, FindCheckpoint(flags.checkpoint));
  CheckpointView view;
  view.path = folder.path();
  const std::string noun = absl::StrCat("checkpoint '", view.path, "'");
  auto manifest = folder.store.ReadManifest(folder.name);
  if (!manifest.ok()) return Annotate(manifest.status(), noun);
  view.manifest = *std::move(manifest);
  auto tensors = ListTensors(PosixFileSystem(), view.path, view.manifest);
  if (!tensors.ok()) return Annotate(tensors.status(), noun);
  view.tensors = *std::move(tensors);
  if (const auto job = ParseJobConfig(view.manifest.spec, "manifest.yaml"); job.ok()) {
    view.model = job->model;
  }
  const bool wide = context.format == OutputFormat::kWide;
  context.out << (context.format == OutputFormat::kJson
                      ? CheckpointJson(view) + "\n"
                      : CheckpointText(view, flags.tensors || wide, flags.spec || wide));
  return kExitOk;
}

struct VerifyFlags {
  std::string checkpoint;
};

// Of every part and of the manifest; DATA_LOSS where there is no manifest that can be read.
absl::StatusOr<std::vector<FileVerdict>> VerdictsOf(Context& context,
                                                    const CheckpointFolder& folder) {
  FileSystem& fs = PosixFileSystem();
  const std::string path = folder.path();
  const auto manifest = ReadManifestIn(fs, path);
  if (!manifest.ok()) {
    const absl::Status fault = Annotate(manifest.status(), absl::StrCat("checkpoint '", path, "'"));
    return absl::IsNotFound(fault) ? absl::DataLossError(fault.message()) : fault;
  }
  PercentLine line(context, "verifying");
  std::vector<FileVerdict> verdicts = VerifyFiles(fs, path, *manifest, line.Callback());
  FileVerdict own{"manifest.json", 0, absl::OkStatus()};
  if (manifest->name != folder.name || manifest->job_id != folder.store.job_id()) {
    own.status = absl::DataLossError(
        absl::StrCat("is that of ", CheckpointId(manifest->job_id, manifest->name)));
  }
  verdicts.push_back(own);
  return verdicts;
}

absl::StatusOr<int> Verify(Context& context, const VerifyFlags& flags) {
  using enum OutputFormat;
  VITSCALE_RETURN_IF_ERROR(
      CheckFormat(context, "checkpoints verify", {kTable, kWide, kJson, kCsv}));
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointFolder folder, FindCheckpoint(flags.checkpoint));
  VITSCALE_ASSIGN_OR_RETURN(const auto verdicts, VerdictsOf(context, folder));
  bool good = true;
  Json files = Json::array();
  Table table({"FILE", "BYTES", "VERDICT"});
  for (const FileVerdict& v : verdicts) {
    good = good && v.status.ok();
    const std::string verdict = v.status.ok() ? "ok" : std::string(v.status.message());
    table.Row({v.name, v.bytes > 0 ? Thousands(v.bytes) : "", verdict});
    files.push_back({{"name", v.name}, {"ok", v.status.ok()}, {"verdict", verdict}});
  }
  if (context.format == OutputFormat::kJson) {
    const Json root = {{"path", folder.path()}, {"ok", good}, {"files", files}};
    context.out << root.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
  } else {
    context.out << (context.format == OutputFormat::kCsv ? table.Csv() : table.Text());
  }
  context.err << folder.path() << (good ? ": good\n" : ": damaged\n");
  return good ? kExitOk : kExitFailed;
}

}  // namespace

void AddCheckpointFileCommands(Cli& cli, CLI::App& group) {
  AddCommand<ShowFlags>(
      cli, group, "show", "Say what a checkpoint is: model, step, lineage, numerics, tensors.",
      "  vitscale checkpoints show checkpoints/3f2k9a1b7c0d              its newest checkpoint\n"
      "  vitscale checkpoints show checkpoints/3f2k9a1b7c0d/a0001.g0001.step_000001000 --tensors\n"
      "  vitscale checkpoints show checkpoints/3f2k9a1b7c0d -o json | jq .model",
      [](CLI::App& app, ShowFlags& f) {
        app.add_option("checkpoint", f.checkpoint, "Its folder, or that of a job")->required();
        app.add_flag("--tensors", f.tensors, "Every tensor with type and shape, too");
        app.add_flag("--spec", f.spec, "The job file of the run, too");
      },
      Show);
  AddCommand<VerifyFlags>(
      cli, group, "verify", "Read a checkpoint whole and compare sizes and checksums.",
      "  vitscale checkpoints verify checkpoints/3f2k9a1b7c0d && echo good\n"
      "Exit code 0 if every file has the size and the CRC32C of the manifest, 1 if not.",
      [](CLI::App& app, VerifyFlags& f) {
        app.add_option("checkpoint", f.checkpoint, "Its folder, or that of a job")->required();
      },
      Verify);
}

}  // namespace vitscale
