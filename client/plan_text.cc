#include "client/plan_text.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/text.h"
#include "kernels/base/status.h"
#include "proto/spec/message_text.h"
#include "proto/spec/units.h"
#include "worker/plan/cost.h"
#include "worker/plan/placements.h"
#include "worker/plan/predict.h"

namespace vitscale {
namespace {

std::string VariantJson(const VariantRow& row) {
  return absl::StrCat("{\"variant\": ", JsonQuote(row.name), ", \"patch\": ", row.shape.patch,
                      ", \"width\": ", row.shape.width, ", \"depth\": ", row.shape.depth,
                      ", \"heads\": ", row.shape.heads, ", \"mlp_width\": ", row.shape.mlp_width,
                      ", \"tokens\": ", row.tokens, ", \"parameters\": ", row.parameters,
                      ", \"forward_flops\": ", ShortestDouble(row.flops.forward),
                      ", \"trunk_flops\": ", ShortestDouble(row.flops.trunk),
                      ", \"state_bytes\": ", row.state_bytes,
                      ", \"body_parameters\": ", row.body_parameters,
                      ", \"paper_flops_224\": ", ShortestDouble(row.paper_flops_224),
                      ", \"paper_flops_384\": ", ShortestDouble(row.paper_flops_384), "}");
}

// Further keys of one number of workers; none where the time is not known.
std::string StepJson(const StepPrediction& step, int64_t total_steps) {
  if (step.seconds <= 0) return "";
  std::string text =
      absl::StrCat(", \"step_seconds\": ", ShortestDouble(step.seconds),
                   ", \"images_per_second\": ", ShortestDouble(step.images_per_second),
                   ", \"efficiency\": ", ShortestDouble(step.efficiency),
                   ", \"micro_batch_seconds\": ", ShortestDouble(step.micro_batch_seconds),
                   ", \"update_seconds\": ", ShortestDouble(step.update_seconds),
                   ", \"exposed_wire_seconds\": ", ShortestDouble(step.exposed_seconds));
  if (total_steps > 0) {
    absl::StrAppend(&text, ", \"total_steps\": ", total_steps, ", \"total_seconds\": ",
                    ShortestDouble(step.seconds * static_cast<double>(total_steps)));
  }
  return text;
}

constexpr char kVariantsNote[] =
    "\nPARAMETERS, GFLOP/IMAGE (forward, matmuls) and STATE: with a MAP head and the classifier.\n"
    "BODY (millions) and GF@224, GF@384: as table 2 of arXiv 2106.04560 counts, without both.\n";

// What the paper's table says of a variant.
void CountAsThePaper(ModelConfig model, VariantRow& row) {
  model.image_size = 384;
  row.paper_flops_384 = FlopsOf(model).paper_table;
  model.image_size = 224;
  row.paper_flops_224 = FlopsOf(model).paper_table;
  row.body_parameters = ParamTable(model, OptimizerKind::kAdafactor).body_parameter_count();
}

}  // namespace

absl::StatusOr<Plan> PlanJob(const JobConfig& job, int64_t memory_bytes) {
  const bool open = job.precision == Precision::kAuto;
  PlanRequest request = PlanRequestFor(job, open ? Precision::kBf16 : job.precision);
  if (request.batch_micro == 0) {  // as the coordinator chooses it: cards run auto in bf16
    std::vector<Placement> placements = {{request, memory_bytes, PrecisionName(request.precision)}};
    if (open && request.device == DeviceKind::kCpu) {
      placements.push_back({PlanRequestFor(job, Precision::kF32), memory_bytes, "f32"});
    }
    VITSCALE_ASSIGN_OR_RETURN(request.batch_micro, ChooseMicroBatch(placements, job.workers));
  }
  VITSCALE_ASSIGN_OR_RETURN(request.recompute, ChooseRecompute(request, memory_bytes));
  VITSCALE_ASSIGN_OR_RETURN(request.packing, ChoosePacking(request, memory_bytes));
  VITSCALE_ASSIGN_OR_RETURN(Plan plan, MakePlan(request));
  if (memory_bytes > 0) VITSCALE_RETURN_IF_ERROR(CheckFits(plan, memory_bytes));
  return plan;
}

std::string PlannedFor(const JobConfig& job, int64_t memory_bytes) {
  const bool card = job.wanted_device == WantedDevice::kCuda;
  const bool open = job.wanted_device == WantedDevice::kAny && job.batch_micro == 0;
  return absl::StrCat(
      card ? "a card" : "a worker on the CPU",
      memory_bytes > 0 ? absl::StrCat(" with ", HumanBytes(memory_bytes)) : ", whatever its memory",
      open ? "; resources.device is any: the coordinator chooses batch.micro for "
             "the workers that it knows"
           : "");
}

std::string PlanJson(const Plan& plan, const std::vector<int>& workers,
                     const ReportOptions& options) {
  const ModelConfig& model = plan.request.model;
  absl::StatusOr<StepPredictor> predictor = absl::NotFoundError("no rates");
  if (options.rates != nullptr) predictor = StepPredictor::Create(plan, *options.rates);
  const std::string by_workers = absl::StrJoin(workers, ", ", [&](std::string* out, int n) {
    absl::StrAppend(out, "{\"workers\": ", n, ", \"wire_bytes_per_step\": ", plan.WireBytes(n),
                    predictor.ok() ? StepJson(predictor->Predict(n, options.wire_bytes_per_second),
                                              options.total_steps)
                                   : "",
                    "}");
  });
  return absl::StrCat(
      "{\"patch\": ", model.patch, ", \"width\": ", model.width, ", \"depth\": ", model.depth,
      ", \"heads\": ", model.heads, ", \"mlp_width\": ", model.mlp_width,
      ", \"classes\": ", model.classes, ", \"pool\": ", JsonQuote(PoolName(model.pool)),
      ", \"tokens\": ", model.tokens(),
      ", \"precision\": ", JsonQuote(PrecisionName(plan.request.precision)),
      ", \"parameters\": ", plan.layout.table.parameter_count(),
      ", \"body_parameters\": ", plan.layout.table.body_parameter_count(),
      ", \"forward_flops_per_image\": ", ShortestDouble(plan.flops.forward),
      ", \"training_flops_per_image\": ", ShortestDouble(plan.flops.training()),
      ", \"device\": ", JsonQuote(DeviceKindName(plan.request.device)),
      ", \"batch_global\": ", plan.request.batch_global,
      ", \"batch_micro\": ", plan.request.batch_micro, ", \"memory_bytes\": ", plan.memory_bytes(),
      ", \"card_bytes\": ", plan.card_bytes(), ", \"host_bytes\": ", plan.host_bytes(),
      ", \"optimizer_bytes\": ", plan.optimizer_bytes(),
      ", \"recompute\": ", JsonQuote(RecomputeName(plan.request.recompute)),
      ", \"step_activation_bytes\": ", plan.step_activation_bytes,
      ", \"compute_weight_bytes\": ", plan.compute_weight_bytes,
      ", \"weight_packing\": ", JsonQuote(WeightPackingName(plan.request.packing)),
      ", \"persistent_weight_bytes\": ", plan.persistent_weight_bytes,
      ", \"per_use_weight_bytes\": ", plan.per_use_weight_bytes,
      ", \"gradient_bytes\": ", plan.gradient_bytes,
      ", \"checkpoint_bytes\": ", plan.checkpoint_bytes, ", \"hash\": \"",
      absl::Hex(plan.hash, absl::kZeroPad16), "\"",
      predictor.ok() ? absl::StrCat(", \"rates_of\": ", JsonQuote(options.rates->device)) : "",
      ", \"workers\": [", by_workers, "]}");
}

absl::StatusOr<std::vector<VariantRow>> PlanVariants(int classes, int image_size) {
  std::vector<VariantRow> rows;
  for (const std::string& name : VariantNames()) {
    PlanRequest request;
    VITSCALE_ASSIGN_OR_RETURN(const ModelShape shape, VariantByName(name));
    request.model.SetShape(shape);
    request.model.classes = classes;
    request.model.image_size = image_size;
    request.precision = Precision::kBf16;
    request.batch_micro = 1;
    VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
    rows.push_back({name, shape, request.model.tokens(), plan.layout.table.parameter_count(),
                    plan.flops, plan.checkpoint_bytes});
    CountAsThePaper(request.model, rows.back());
  }
  return rows;
}

std::string VariantsText(const std::vector<VariantRow>& rows, OutputFormat format) {
  if (format == OutputFormat::kJson) {
    return absl::StrCat("[\n",
                        absl::StrJoin(rows, ",\n",
                                      [](std::string* out, const VariantRow& row) {
                                        absl::StrAppend(out, VariantJson(row));
                                      }),
                        "\n]\n");
  }
  Table table({"VARIANT", "WIDTH", "DEPTH", "MLP", "HEADS", "TOKENS", "PARAMETERS", "GFLOP/IMAGE",
               "STATE", "BODY", "GF@224", "GF@384"});
  for (const VariantRow& row : rows) {
    const bool csv = format == OutputFormat::kCsv;
    table.Row({row.name, absl::StrCat(row.shape.width), absl::StrCat(row.shape.depth),
               absl::StrCat(row.shape.mlp_width), absl::StrCat(row.shape.heads),
               absl::StrCat(row.tokens),
               csv ? absl::StrCat(row.parameters) : Thousands(row.parameters),
               Significant(row.flops.forward / 1e9, 4),
               csv ? absl::StrCat(row.state_bytes) : FormatSize(row.state_bytes),
               csv ? absl::StrCat(row.body_parameters) : PaperMillions(row.body_parameters),
               absl::StrFormat("%.1f", row.paper_flops_224 / 1e9),
               absl::StrFormat("%.1f", row.paper_flops_384 / 1e9)});
  }
  return format == OutputFormat::kCsv ? table.Csv() : table.Text() + kVariantsNote;
}

std::string PaperMillions(int64_t parameters) {
  const double millions = static_cast<double>(parameters) / 1e6;
  return absl::StrFormat(millions < 10 ? "%.1f" : "%.0f", millions);
}

}  // namespace vitscale
