#include "worker/bench/op_bench.h"

#include <algorithm>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/bench/ceiling.h"
#include "worker/model/vit.h"
#include "worker/plan/cost.h"

namespace vitscale {
namespace {

struct Tally {
  int count = 0;
  double seconds = 0;
  OpCost cost;
};
using Tallies = std::map<std::string, Tally>;

bool IsMarker(const Op& op) {
  return std::holds_alternative<GradientsReadyArgs>(op) || std::holds_alternative<PhaseArgs>(op) ||
         std::holds_alternative<PanelBeginArgs>(op) || std::holds_alternative<PanelEndArgs>(op);
}

std::string Matmul(const char* name, int64_t rows, int64_t in, int64_t out) {
  return absl::StrCat(name, " ", rows, "x", in, "x", out);
}
int64_t Columns(const WeightParts& parts) {
  int64_t columns = 0;
  for (const TensorView& part : parts) columns += part.columns();
  return columns;
}

// Ops of one kind and shape count together.
std::string KindOf(const Op& op) {
  if (const auto* a = std::get_if<LinearArgs>(&op)) {
    const char* epilogue = a->epilogue == LinearEpilogue::kGelu       ? "Linear+Gelu"
                           : a->epilogue == LinearEpilogue::kResidual ? "Linear+Residual"
                                                                      : "Linear";
    return Matmul(epilogue, a->x.rows(), a->x.columns(), Columns(a->weight));
  }
  if (const auto* a = std::get_if<LinearGradInputArgs>(&op)) {
    return Matmul(a->pre_activation.present() ? "LinearGradInput+dGelu" : "LinearGradInput",
                  a->grad_y.rows(), a->grad_y.columns(), a->grad_x.columns());
  }
  if (const auto* a = std::get_if<LinearGradWeightArgs>(&op)) {
    return Matmul("LinearGradWeight", a->x.rows(), a->x.columns(), a->grad_y.columns());
  }
  return OpName(op);
}

// A step as pieces that can run by themselves: a panel group, or one op.
std::vector<Program> Pieces(const Program& step) {
  std::vector<Program> pieces;
  bool inside = false;
  for (const Op& op : step.ops()) {
    if (std::holds_alternative<GradientsReadyArgs>(op) || std::holds_alternative<PhaseArgs>(op))
      continue;
    if (!inside) pieces.emplace_back();
    pieces.back().mutable_ops().push_back(op);
    if (std::holds_alternative<PanelBeginArgs>(op)) inside = true;
    if (std::holds_alternative<PanelEndArgs>(op)) inside = false;
  }
  return pieces;
}

// "group [LayerNorm Linear …]" or the op's own kind.
std::string KindOf(const Program& piece) {
  if (piece.ops().size() == 1) return KindOf(piece.ops()[0]);
  std::string name = "group";
  for (const Op& op : piece.ops()) {
    if (!IsMarker(op)) absl::StrAppend(&name, " ", OpName(op));
  }
  return name;
}

class OpTimer {
 public:
  OpTimer(Backend& backend, int repetitions) : backend_(backend), repetitions_(repetitions) {}

  absl::Status Time(Program program, Tallies& tallies) {
    Tally& tally = tallies[KindOf(program)];
    const OpCost cost = CostOf(program);
    VITSCALE_ASSIGN_OR_RETURN(auto prepared, backend_.Prepare(std::move(program)));
    double seconds = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= repetitions_; ++i) {  // the first warms up
      absl::Status status;
      const double once = SecondsOf([&] { status = backend_.Run(*prepared, {}, nullptr); });
      VITSCALE_RETURN_IF_ERROR(status);
      if (i > 0) seconds = std::min(seconds, once);
    }
    ++tally.count;
    tally.seconds += seconds;
    tally.cost.flops += cost.flops;
    tally.cost.bytes += cost.bytes;
    return absl::OkStatus();
  }

 private:
  Backend& backend_;
  int repetitions_;
};

nlohmann::json Report(const Tallies& tallies) {
  double total = 0;
  for (const auto& [name, tally] : tallies) total += tally.seconds;
  nlohmann::json list = nlohmann::json::array();
  for (const auto& [name, tally] : tallies) {
    list.push_back({{"name", name},
                    {"count", tally.count},
                    {"seconds", tally.seconds},
                    {"share", tally.seconds / total},
                    {"gflops", tally.cost.flops / tally.seconds / 1e9},
                    {"gigabytes_per_second", tally.cost.bytes / tally.seconds / 1e9}});
  }
  std::sort(list.begin(), list.end(),
            [](const auto& a, const auto& b) { return a["seconds"] > b["seconds"]; });
  return list;
}

}  // namespace

absl::StatusOr<nlohmann::json> BenchOps(const BenchOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(BenchReplica replica, MakeBenchReplica(options));
  const ModelLayout& layout = replica.plan.layout;
  OptimizerConfig optimizer;
  optimizer.kind = OptimizerOf(options);
  optimizer.learning_rate = 1e-4;
  Program all = BuildStep(layout, {});
  // A step first: it names all weights and leaves sensible values everywhere.
  VITSCALE_ASSIGN_OR_RETURN(auto step, replica.backend->Prepare(all));
  for (const Program& more : {BuildPrepare(layout), BuildUpdate(layout, optimizer)}) {
    for (const Op& op : more.ops()) all.mutable_ops().push_back(op);
  }
  VITSCALE_ASSIGN_OR_RETURN(auto prepare, replica.backend->Prepare(BuildPrepare(layout)));
  VITSCALE_RETURN_IF_ERROR(replica.backend->Run(*prepare, {}, nullptr));
  VITSCALE_RETURN_IF_ERROR(replica.backend->Run(*step, {}, nullptr));

  OpTimer timer(*replica.backend, options.steps);
  Tallies groups, ops;
  for (Program& piece : Pieces(all)) {
    for (const Op& op : piece.ops()) {
      if (IsMarker(op)) continue;
      Program alone;
      alone.mutable_ops().push_back(op);
      VITSCALE_RETURN_IF_ERROR(timer.Time(std::move(alone), ops));
    }
    VITSCALE_RETURN_IF_ERROR(timer.Time(std::move(piece), groups));
  }
  nlohmann::json report = Describe(options, replica);
  report["groups"] = Report(groups);
  report["ops"] = Report(ops);
  if (options.ceiling) {
    report["ceiling_gflops"] =
        MeasureCeiling(replica.plan.request.precision, replica.backend->info().threads)
            .flops_per_second /
        1e9;
  }
  return report;
}

}  // namespace vitscale
