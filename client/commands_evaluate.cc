// evaluate: the evaluations of a checkpoint as a job of their own.

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/command.h"
#include "client/job_text.h"
#include "client/output.h"
#include "client/start.h"
#include "client/watch_view.h"
#include "kernels/base/status.h"
#include "proto/spec/fault.h"
#include "proto/spec/job_spec.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

constexpr int kRecordTries = 30;
constexpr absl::Duration kRecordPause = absl::Milliseconds(100);

struct EvaluateFlags {
  std::string checkpoint, file, name, kind, data, support, preprocess;
  std::vector<std::string> set;
  std::vector<int> shots;
  int workers = 0;
  bool detach = false, follow = false;
};

// "{format: idx, …}" as it is; anything else is a folder of images.
std::string SourceText(const std::string& source) {
  if (absl::StartsWith(source, "{")) return source;
  return absl::StrCat("{format: folder, path: ", JsonQuote(source), "}");
}

// Overrides that stand for the flags.
absl::StatusOr<std::vector<std::string>> Overrides(const EvaluateFlags& flags,
                                                   const std::string& from) {
  std::vector<std::string> set = {"kind=evaluate", absl::StrCat("from=", JsonQuote(from))};
  if (flags.workers > 0) {
    set.push_back(
        absl::StrCat("resources.workers={min: ", flags.workers, ", max: ", flags.workers, "}"));
  }
  if (!flags.name.empty()) set.push_back(absl::StrCat("name=", flags.name));
  if (flags.data.empty()) {
    if (!flags.kind.empty()) return FlagError("--kind", "wanted --data, too");
    if (!flags.support.empty()) return FlagError("--support", "wanted --data, too");
    if (!flags.shots.empty()) return FlagError("--shots", "wanted --data, too");
    if (!flags.preprocess.empty()) return FlagError("--preprocess", "wanted --data, too");
  } else {
    const std::string kind = !flags.kind.empty()     ? flags.kind
                             : flags.support.empty() ? "classify"
                                                     : "fewshot";
    std::string eval =
        absl::StrCat("evals=[{name: ", kind, ", kind: ", kind, ", data: ", SourceText(flags.data));
    if (!flags.support.empty()) absl::StrAppend(&eval, ", support: ", SourceText(flags.support));
    if (!flags.shots.empty()) {
      absl::StrAppend(&eval, ", shots: [", absl::StrJoin(flags.shots, ", "), "]");
    }
    if (!flags.preprocess.empty()) {
      absl::StrAppend(&eval, ", preprocess: ", JsonQuote(flags.preprocess));
    }
    set.push_back(eval + "}]");
  }
  set.insert(set.end(), flags.set.begin(), flags.set.end());
  return set;
}

// Imported weights say nothing of preprocessing. Images of a folder have any size, so that theirs
// is the authors' for evaluations, which the rules derive from this one for training.
void PreprocessFolders(v1::JobSpec* spec) {
  spec->mutable_data()->set_preprocess(
      absl::StrCat("inception_crop(", spec->model().image_size(), ")|value_range(-1,1)"));
}

// What an evaluation needs of the run that wrote the checkpoint. Its micro-batch is known to fit,
// and gives the bits that the run's own evaluations had.
v1::JobSpec EvaluationOf(const v1::JobSpec& run) {
  v1::JobSpec spec;
  spec.set_name(NameAfter(run.name(), "eval"));
  *spec.mutable_resources() = run.resources();
  *spec.mutable_model() = run.model();
  spec.mutable_data()->set_preprocess(run.data().preprocess());
  *spec.mutable_evals() = run.evals();
  spec.mutable_batch()->set_micro(run.batch().micro());
  spec.set_precision(run.precision());
  spec.set_priority(run.priority());
  return spec;
}

bool LacksModel(const absl::Status& status) {
  const std::vector<Fault> faults = StatusToFaults(status);
  return std::any_of(faults.begin(), faults.end(),
                     [](const Fault& fault) { return fault.field == "model"; });
}

// Of a job file; the model may be left to the checkpoint.
absl::StatusOr<v1::JobSpec> SpecOfFile(Context& context, ControlClient& client,
                                       const EvaluateFlags& flags, std::vector<std::string> set) {
  VITSCALE_ASSIGN_OR_RETURN(const std::string text, ReadInput(context, flags.file));
  const auto run = SpecBehind(client, flags.checkpoint);
  if (flags.name.empty() && run.ok()) {
    set.push_back(absl::StrCat("name=", NameAfter(run->name(), "eval")));
  }
  auto spec = ParseJobSpec(text, FormatOfPath(flags.file), set);
  if (!spec.ok() && LacksModel(spec.status())) {
    if (run.ok()) {
      set.insert(set.begin(), absl::StrCat("model=", MessageToJson(run->model())));
      spec = ParseJobSpec(text, FormatOfPath(flags.file), set);
    }
  }
  if (spec.ok()) return spec;
  return Annotate(spec.status(), flags.file == "-" ? "standard input" : flags.file);
}

absl::StatusOr<v1::JobSpec> SpecOf(Context& context, ControlClient& client,
                                   const EvaluateFlags& flags) {
  VITSCALE_ASSIGN_OR_RETURN(const auto set, Overrides(flags, FromOf(client, flags.checkpoint)));
  if (!flags.file.empty()) return SpecOfFile(context, client, flags, set);
  VITSCALE_ASSIGN_OR_RETURN(const v1::JobSpec run, SpecBehind(client, flags.checkpoint));
  v1::JobSpec base = EvaluationOf(run);
  const bool folder = !flags.data.empty() && !absl::StartsWith(flags.data, "{");
  if (folder && IsImported(flags.checkpoint)) PreprocessFolders(&base);
  auto spec = ParseJobSpec(ToYaml(base), SpecFormat::kYaml, set);
  if (!spec.ok()) return Annotate(spec.status(), absl::StrCat("evaluation of ", run.name()));
  return spec;
}

// Records reach the store in batches, the last ones a moment after the job has ended.
absl::StatusOr<std::vector<v1::EvalRecord>> RecordsOf(Context& context, ControlClient& client,
                                                      const v1::Job& job, bool complete) {
  v1::ListEvalsRequest request;
  request.set_job_id(job.id());
  for (int tries = 0;; ++tries) {
    VITSCALE_ASSIGN_OR_RETURN(const v1::ListEvalsResponse found, client.ListEvals(request));
    if (!complete || found.evals_size() >= job.spec().evals_size() || tries == kRecordTries) {
      return std::vector<v1::EvalRecord>(found.evals().begin(), found.evals().end());
    }
    context.sleep(kRecordPause);
  }
}

absl::StatusOr<int> Evaluate(Context& context, const EvaluateFlags& flags) {
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  v1::SubmitJobRequest request;
  VITSCALE_ASSIGN_OR_RETURN(*request.mutable_spec(), SpecOf(context, *client, flags));
  request.set_request_id(context.RequestId());
  VITSCALE_ASSIGN_OR_RETURN(const v1::SubmitJobResponse response, client->SubmitJob(request));
  const v1::Job& job = response.job();
  if (flags.detach) {
    context.out << job.id() << std::endl;
    return kExitOk;
  }
  context.err << "job " << job.id() << " (" << job.spec().name() << ") evaluates "
              << job.spec().from() << std::endl;
  VITSCALE_ASSIGN_OR_RETURN(const int code, WatchToTheEnd(context, *client, job.id(),
                                                          /*quiet=*/!flags.follow));
  VITSCALE_ASSIGN_OR_RETURN(const auto records,
                            RecordsOf(context, *client, job, /*complete=*/code == kExitOk));
  if (code == kExitOk || !records.empty()) {
    PrintList(context, records,
              [&] { return EvalTable(records, context.format == OutputFormat::kCsv); });
  }
  return code;
}

}  // namespace

void AddEvaluate(Cli& cli) {
  AddCommand<EvaluateFlags>(
      cli, cli.app, "evaluate",
      "Measure a checkpoint: a job that runs evaluations once and trains nothing.",
      "  vitscale evaluate fashion-mnist                  the newest checkpoint of that job, its "
      "own "
      "evaluations\n"
      "  vitscale evaluate 3f2k9a1b7c0d/a0001.g0001.step_000001000 --workers 4 -o json\n"
      "  vitscale evaluate checkpoints/4b7m2p9q0z1x/a0000.g0000.step_000000000 \\\n"
      "      --kind fewshot --support flowers/train --data flowers/test --shots 1,5,10,25\n"
      "  vitscale evaluate fashion-mnist evals.yaml       the evaluations of that file",
      [](CLI::App& app, EvaluateFlags& f) {
        app.add_option("checkpoint", f.checkpoint,
                       "A job (its newest checkpoint), a checkpoint's id, or its folder")
            ->required();
        app.add_option("file", f.file,
                       "Job file whose evals are run (default: those of the run), or - for "
                       "standard input");
        app.add_option("--set", f.set, "Override a field: path=value, such as evals[0].shots=[1,5]")
            ->expected(1)
            ->take_all();
        app.add_option("--name", f.name, "As --set name=… (default: <run>-eval)");
        app.add_option("--workers", f.workers, "Workers to spread it over (default: the run's)")
            ->check(WholeNumber(1, 1024));
        app.add_option("--data", f.data,
                       "Images to measure: a folder below a data root, or {format: …}")
            ->check(NotEmpty());
        app.add_option("--support", f.support, "With --data: images to draw the shots from")
            ->check(NotEmpty());
        app.add_option(
               "--preprocess", f.preprocess,
               "With --data: such as \"resize_small(256)|central_crop(224)|value_range(-1,1)"
               "\" (default: the run's without its random ops)")
            ->check(NotEmpty());
        app.add_option("--kind", f.kind,
                       "With --data: classify, or fewshot (default with --support)")
            ->check(OneOfWords({"classify", "fewshot"}));
        app.add_option("--shots", f.shots, "With --data: images per class")
            ->delimiter(',')
            ->check(WholeNumber(1, 10000));
        app.add_flag("--detach", f.detach, "Print the job's id and do not wait for the result");
        app.add_flag("-f,--follow", f.follow, "Watch it on the way");
      },
      Evaluate);
}

}  // namespace vitscale
