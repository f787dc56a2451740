// checkpoints import, export: files of this machine, no coordinator.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/checkpoint_files.h"
#include "client/checkpoint_text.h"
#include "client/command.h"
#include "client/output.h"
#include "client/text.h"
#include "kernels/base/files.h"
#include "kernels/base/random.h"
#include "kernels/base/status.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_spec.h"
#include "worker/config/job_config.h"
#include "worker/weights/export_weights.h"
#include "worker/weights/import_weights.h"
#include "worker/weights/weights_checkpoint.h"

namespace vitscale {
namespace {

using Json = nlohmann::ordered_json;

// Messages are for people; a list that is long is cut.
std::string FewOf(const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  const std::vector<std::string> first(names.begin(),
                                       names.begin() + std::min(names.size(), kShown));
  return absl::StrCat(
      absl::StrJoin(first, ", "),
      names.size() > kShown ? absl::StrCat(" and ", names.size() - kShown, " more") : "");
}

// ---- import -------------------------------------------------------------------------------------

struct ImportFlags {
  std::string file, out, format = "auto", variant, job, loss = "sigmoid";
  int heads = 0, image_size = 0, classes = 0;
  double head_bias = 0;
  bool without_head = false;
};

// The job file's model is law, all of it.
void HintsOf(const ModelConfig& m, ModelHints* hints) {
  hints->shape = ModelShape{m.patch, m.width, m.depth, m.heads, m.mlp_width};
  hints->image_size = m.image_size;
  hints->classes = m.classes;
  hints->pool = m.pool;
  hints->position = m.position;
  hints->representation_size = m.representation_size;
  hints->loss = m.loss;
  hints->head_bias = m.head_bias;
}

absl::StatusOr<ImportOptions> ImportOptionsOf(Context& context, const ImportFlags& flags,
                                              v1::JobSpec* job_file) {
  ImportOptions options;
  options.format = flags.format;
  options.without_head = flags.without_head;
  ModelHints& hints = options.hints;
  hints.loss = flags.loss == "softmax" ? LossKind::kSoftmax : LossKind::kSigmoid;
  hints.head_bias = flags.head_bias;
  if (!flags.job.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(const std::string text, ReadInput(context, flags.job));
    VITSCALE_ASSIGN_OR_RETURN(const JobConfig job, ParseJobConfig(text, flags.job));
    HintsOf(job.model, &hints);
    VITSCALE_CHECK(job_file->ParseFromString(job.canonical_bytes)) << "canonical bytes";
  }
  if (!flags.variant.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(hints.shape, VariantByName(flags.variant));
  }
  if (flags.heads > 0) hints.heads = flags.heads;
  if (flags.image_size > 0) hints.image_size = flags.image_size;
  if (flags.classes > 0) hints.classes = flags.classes;
  return options;
}

// The manifest's job file. Imported weights were trained by no job of ours: around the model stands
// the least that is valid.
absl::StatusOr<std::string> SpecText(const ImportedWeights& imported, v1::JobSpec spec) {
  if (!spec.has_model()) {
    spec.set_name("imported");
    v1::DataSource* none = spec.mutable_data()->mutable_train();
    none->set_format(v1::DATA_FORMAT_SYNTHETIC);
    none->set_synthetic_images(1);
    spec.mutable_optimizer()->set_lr(1e-3);
    spec.mutable_schedule()->set_total("1 steps");
    spec.mutable_batch()->set_global(1);
  }
  *spec.mutable_model() = ModelSpec(imported.weights.model);
  VITSCALE_ASSIGN_OR_RETURN(const v1::JobSpec canonical, Canonicalize(spec));
  return ToYaml(canonical);
}

void PrintImported(Context& context, const ImportedWeights& imported, const std::string& path) {
  if (context.format == OutputFormat::kJson) {
    const Json root = {{"path", path},
                       {"format", imported.title},
                       {"prefix", imported.prefix},
                       {"model", ModelText(imported.weights.model)},
                       {"parameters", imported.weights.table.parameter_count()},
                       {"notes", imported.notes},
                       {"ignored", imported.ignored}};
    context.out << root.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  context.err << imported.title << ": " << ModelText(imported.weights.model) << "; "
              << Thousands(imported.weights.table.parameter_count()) << " parameters\n";
  for (const std::string& note : imported.notes) context.err << Harmless(note) << "\n";
  if (!imported.ignored.empty()) {
    context.err << "no part of this model, left out: " << Harmless(FewOf(imported.ignored)) << "\n";
  }
  context.out << path << "\n";
}

absl::StatusOr<int> Import(Context& context, const ImportFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "checkpoints import", kTextOrJson));
  v1::JobSpec job_file;
  VITSCALE_ASSIGN_OR_RETURN(const ImportOptions options,
                            ImportOptionsOf(context, flags, &job_file));
  VITSCALE_ASSIGN_OR_RETURN(const std::string file, AbsolutePath(flags.file));
  VITSCALE_ASSIGN_OR_RETURN(const std::string directory, AbsolutePath(flags.out));
  FileSystem& fs = PosixFileSystem();
  absl::StatusOr<ImportedWeights> imported = absl::UnknownError("");
  {
    PercentLine line(context, "reading");
    imported = ImportWeights(fs, file, options, line.Callback());
  }
  if (!imported.ok()) return imported.status();
  const int channels = imported->weights.model.channels;
  if (job_file.has_model() && job_file.model().channels() != channels) {
    return FlagError("--job", absl::StrCat("model.channels is ", job_file.model().channels(),
                                           ", the file's patch embedding has ", channels));
  }
  VITSCALE_ASSIGN_OR_RETURN(const std::string spec, SpecText(*imported, job_file));
  constexpr int kIdCharacters = 12;
  VITSCALE_ASSIGN_OR_RETURN(
      const std::string path,
      WriteWeightsCheckpoint(fs, directory, RandomId(context.random, kIdCharacters),
                             imported->weights, spec, context.clock.Now()));
  PrintImported(context, *imported, path);
  return kExitOk;
}

constexpr char kImportExamples[] =
    R"(  vitscale checkpoints import i21k_B_32.npz --out checkpoints
  vitscale checkpoints import g14.npz --out checkpoints --image-size 518      positions resampled
  vitscale checkpoints import siglip.safetensors --out checkpoints --without-head
  vitscale checkpoints import vit.safetensors --out checkpoints --format timm --heads 6

Formats, told apart by the names in the file:
  npz   big_vision, 2020 to today: plain, params/, opt/target/, params/img/; scan; bfloat16 as |V2
  timm  VisionTransformer (safetensors); must use tanh GELU, and for GAP fc_norm=False
  hf    SigLIP's vision tower (safetensors), alone or with its text tower
f32 values are kept bit for bit. What is missing, misshapen or unknown is listed by name, and then
nothing is written. The folder printed can be given to `evaluate` and to `submit --from` when --out
is a checkpoint root of the workers; optimizer state begins at zero.)";

void AddImport(Cli& cli, CLI::App& group) {
  AddCommand<ImportFlags>(
      cli, group, "import",
      "Make a checkpoint of weights from big_vision, timm or Hugging Face SigLIP.", kImportExamples,
      [](CLI::App& app, ImportFlags& f) {
        app.add_option("file", f.file, "The weights: .npz or .safetensors")->required();
        app.add_option("--out", f.out, "Folder of checkpoints to put it in, as <out>/<new id>/…")
            ->required();
        app.add_option("--format", f.format, "Whose names the file has")
            ->capture_default_str()
            ->check(OneOfWords({"auto", "npz", "timm", "hf"}));
        CLI::Option* variant =
            app.add_option("--variant", f.variant, "Shape, such as B/16 (default: the file's)");
        app.add_option("--job", f.job, "Job file whose model it shall be, head and image size too")
            ->excludes(variant);
        app.add_option("--heads", f.heads,
                       "Attention heads; timm and hf files do not say (default: the variant's)")
            ->check(WholeNumber(1, 256));
        app.add_option("--image-size", f.image_size,
                       "Side of the input; resamples positions (default: the file's)")
            ->check(WholeNumber(1, 2048));
        app.add_option("--classes", f.classes,
                       "Classes that the file's head must have, or the new one gets")
            ->check(WholeNumber(1, 1000000));
        app.add_flag("--without-head", f.without_head,
                     "Leave its head out: zeros, for --classes (1 if not given)");
        app.add_option("--head-bias", f.head_bias, "With --without-head: value of every bias")
            ->capture_default_str()
            ->check(Number(-100.0, 100.0));
        app.add_option("--loss", f.loss, "Loss of the model, which no file tells")
            ->capture_default_str()
            ->check(OneOfWords({"sigmoid", "softmax"}));
      },
      Import);
}

// ---- export -------------------------------------------------------------------------------------

struct ExportFlags {
  std::string checkpoint, format, out;
  bool without_head = false, force = false;
};

// Bytes that do not fit together are damage, whatever it is that they make the file say.
absl::Status ToldAsDamage(const absl::Status& status, const std::string& path) {
  if (!absl::IsDataLoss(status)) return status;
  return absl::DataLossError(absl::StrCat(
      "checkpoint '", path, "' is damaged, see vitscale checkpoints verify: ", status.message()));
}

absl::StatusOr<Weights> WeightsOf(const CheckpointFolder& folder) {
  const auto manifest = folder.store.ReadManifest(folder.name);
  if (!manifest.ok()) return ToldAsDamage(manifest.status(), folder.path());
  const auto job = ParseJobConfig(manifest->spec, "manifest.yaml");
  if (!job.ok()) return Annotate(job.status(), absl::StrCat("checkpoint '", folder.path(), "'"));
  auto weights = ReadWeightsCheckpoint(folder.store, folder.name, job->model);
  if (!weights.ok()) return ToldAsDamage(weights.status(), folder.path());
  return weights;
}

absl::StatusOr<int> Export(Context& context, const ExportFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "checkpoints export", kTextOrJson));
  VITSCALE_ASSIGN_OR_RETURN(const Spelling* const spelling, SpellingByName(flags.format));
  VITSCALE_ASSIGN_OR_RETURN(const std::string out, AbsolutePath(flags.out));
  FileSystem& fs = PosixFileSystem();
  VITSCALE_ASSIGN_OR_RETURN(const bool there, fs.Exists(out));
  if (there && !flags.force)
    return FlagError("--out", absl::StrCat("\"", out, "\" exists; --force replaces it"));
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointFolder folder, FindCheckpoint(flags.checkpoint));
  VITSCALE_ASSIGN_OR_RETURN(const Weights weights, WeightsOf(folder));
  {
    PercentLine line(context, "writing");
    VITSCALE_RETURN_IF_ERROR(ExportWeights(fs, out, weights, *spelling,
                                           {flags.without_head, flags.force}, line.Callback()));
  }
  const std::string expression = ModelExpression(*spelling, weights.model, flags.without_head);
  if (context.format == OutputFormat::kJson) {
    const Json root = {{"path", out}, {"format", spelling->title}, {"model", expression}};
    context.out << root.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
    return kExitOk;
  }
  context.err << "fits " << expression << "\n";
  context.out << out << "\n";
  return kExitOk;
}

constexpr char kExportExamples[] =
    R"(  vitscale checkpoints export checkpoints/3f2k9a1b7c0d --format timm --out vit.safetensors
  vitscale checkpoints export checkpoints/3f2k9a1b7c0d/a0001.g0001.step_000001000 \
      --format npz --out vit.npz
  vitscale checkpoints export checkpoints/3f2k9a1b7c0d --format hf --without-head --out model.safetensors

How the other program has to make the model is printed. timm's and transformers' defaults differ in
  GELU          timm takes erf; the paper's models take tanh: act_layer='gelu_tanh'
  GAP           timm normalises after the mean; here before it: fc_norm=False
  class token   timm gives it a position; here it has none: no_embed_class=True
  head          SigLIP's vision tower has none: --without-head
  sincos2d      becomes learned positions with the same values
Preprocessing is not part of the file: here pixels are in -1 to 1 (mean and std 0.5).)";

void AddExport(Cli& cli, CLI::App& group) {
  AddCommand<ExportFlags>(
      cli, group, "export", "Write a checkpoint's weights for big_vision, timm or Hugging Face.",
      kExportExamples,
      [](CLI::App& app, ExportFlags& f) {
        app.add_option("checkpoint", f.checkpoint,
                       "Its folder, or that of a job: its newest checkpoint")
            ->required();
        app.add_option("--format", f.format, "npz (big_vision), timm or hf (SigLIP)")
            ->required()
            ->check(OneOfWords({"npz", "timm", "hf"}));
        app.add_option("--out", f.out, "File to write")->required();
        app.add_flag("--without-head", f.without_head, "Leave the classifier out");
        app.add_flag("--force", f.force, "Replace the file if it is there");
      },
      Export);
}

}  // namespace

void AddWeightCommands(Cli& cli, CLI::App& group) {
  AddImport(cli, group);
  AddExport(cli, group);
}

}  // namespace vitscale
