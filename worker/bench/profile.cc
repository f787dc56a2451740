#include "worker/bench/profile.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/model/vit.h"

namespace vitscale {
namespace {

using Tallies = std::map<std::string, Tally>;

bool IsMarker(const Op& op) {
  return std::holds_alternative<GradientsReadyArgs>(op) || std::holds_alternative<PhaseArgs>(op) ||
         std::holds_alternative<PanelBeginArgs>(op) || std::holds_alternative<PanelEndArgs>(op);
}

bool BeginsWithOptimizer(const Program& piece) {
  return std::visit(
      [](const auto& args) {
        return std::is_base_of_v<OptimizerArgs, std::decay_t<decltype(args)>>;
      },
      piece.ops().front());
}

std::string Matmul(const char* name, int64_t rows, int64_t in, int64_t out) {
  return absl::StrCat(name, " ", rows, "x", in, "x", out);
}

// Ops of one kind and shape count together.
std::string ShapeOf(const Op& op) {
  if (const auto* a = std::get_if<LinearArgs>(&op)) {
    const char* epilogue = a->epilogue == LinearEpilogue::kGelu       ? "Linear+Gelu"
                           : a->epilogue == LinearEpilogue::kResidual ? "Linear+Residual"
                                                                      : "Linear";
    return Matmul(epilogue, a->x.rows(), a->x.columns(), Columns(a->weight));
  }
  if (const auto* a = std::get_if<LinearGradInputArgs>(&op)) {
    return Matmul(a->pre_activation.present() ? "LinearGradInput+dGelu" : "LinearGradInput",
                  a->grad_y.rows(), Columns(a->weight), a->grad_x.columns());
  }
  if (const auto* a = std::get_if<LinearGradWeightArgs>(&op)) {
    return Matmul("LinearGradWeight", a->x.rows(), a->x.columns(), Columns(a->grad_weight));
  }
  return OpName(op);
}

// A step as pieces that can run by themselves: a panel group, an optimizer with the weights that it
// prepares, or one op.
std::vector<Program> Pieces(const Program& step) {
  std::vector<Program> pieces;
  bool inside = false;
  for (const Op& op : step.ops()) {
    if (std::holds_alternative<GradientsReadyArgs>(op) || std::holds_alternative<PhaseArgs>(op))
      continue;
    const bool joins = std::holds_alternative<PrepareWeightsArgs>(op) && !pieces.empty() &&
                       BeginsWithOptimizer(pieces.back());
    if (!inside && !joins) pieces.emplace_back();
    pieces.back().mutable_ops().push_back(op);
    if (std::holds_alternative<PanelBeginArgs>(op)) inside = true;
    if (std::holds_alternative<PanelEndArgs>(op)) inside = false;
  }
  return pieces;
}

// "group LayerNorm Linear …" or the op's own shape.
std::string NameOf(const Program& piece) {
  if (piece.ops().size() == 1) return ShapeOf(piece.ops()[0]);
  std::string name = "group";
  for (const Op& op : piece.ops()) {
    if (!IsMarker(op)) absl::StrAppend(&name, " ", OpName(op));
  }
  return name;
}

// The fastest and the slowest repetition.
struct Range {
  double least = std::numeric_limits<double>::infinity(), most = 0;
};

void Count(Tallies& tallies, const std::string& name, const Range& seconds, const OpCost& cost) {
  Tally& tally = tallies[name];
  tally.name = name;
  ++tally.count;
  tally.seconds += seconds.least;
  tally.slowest_seconds += seconds.most;
  tally.cost.flops += cost.flops;
  tally.cost.bytes += cost.bytes;
}

std::vector<Tally> SlowestFirst(const Tallies& tallies) {
  std::vector<Tally> list;
  for (const auto& [name, tally] : tallies) list.push_back(tally);
  std::sort(list.begin(), list.end(),
            [](const Tally& a, const Tally& b) { return a.seconds > b.seconds; });
  return list;
}

class Profiler {
 public:
  Profiler(Backend& backend, int repetitions) : backend_(backend), repetitions_(repetitions) {}

  absl::Status Time(const Program& piece) {
    VITSCALE_ASSIGN_OR_RETURN(const Range together, SecondsOfProgram(piece));
    Program priced = piece;
    Count(groups_, NameOf(piece), together, CostOf(priced));
    std::vector<Range> alone;
    double sum = 0;
    for (Op& op : priced.mutable_ops()) {
      Range seconds = together;
      if (IsMarker(op)) {
        seconds = {0, 0};
      } else if (priced.ops().size() > 1) {
        Program single;
        single.mutable_ops().push_back(op);
        VITSCALE_ASSIGN_OR_RETURN(seconds, SecondsOfProgram(single));
      }
      alone.push_back(seconds);
      sum += seconds.least;
    }
    for (size_t i = 0; i < alone.size(); ++i) {
      Op& op = priced.mutable_ops()[i];
      if (IsMarker(op)) continue;
      const OpCost cost = CostOf(op);
      Count(ops_, ShapeOf(op), alone[i], cost);
      const double share = alone[i].least / sum;
      Count(kinds_, OpName(op), {together.least * share, together.most * share}, cost);
    }
    return absl::OkStatus();
  }
  StepProfile Take() { return {SlowestFirst(groups_), SlowestFirst(ops_), SlowestFirst(kinds_)}; }

 private:
  absl::StatusOr<Range> SecondsOfProgram(Program program) {
    VITSCALE_ASSIGN_OR_RETURN(auto prepared, backend_.Prepare(std::move(program)));
    Range seconds;
    for (int i = 0; i <= repetitions_; ++i) {  // the first warms up
      absl::Status status;
      const double once = SecondsOf([&] { status = backend_.Run(*prepared, {}, nullptr); });
      VITSCALE_RETURN_IF_ERROR(status);
      if (i == 0) continue;
      seconds = {std::min(seconds.least, once), std::max(seconds.most, once)};
    }
    return seconds;
  }

  Backend& backend_;
  const int repetitions_;
  Tallies groups_, ops_, kinds_;
};

double SumOfSeconds(const std::vector<Tally>& tallies) {
  double total = 0;
  for (const Tally& tally : tallies) total += tally.seconds;
  return total;
}

}  // namespace

bool IsOfUpdate(const std::string& kind) {
  static const auto* kinds = new std::set<std::string>{"GradStats", "AdafactorApply", "AdamWApply",
                                                       "SgdApply", "PrepareWeights"};
  return kinds->count(kind) > 0;
}

absl::StatusOr<StepProfile> ProfileStep(BenchReplica& replica, const OptimizerConfig& optimizer,
                                        int repetitions) {
  const ModelLayout& layout = replica.plan.layout;
  Backend& backend = *replica.backend;
  Program all = BuildStep(layout, {});
  // A step first: it names all weights and leaves sensible values everywhere.
  VITSCALE_ASSIGN_OR_RETURN(auto step, backend.Prepare(all));
  const Program update = BuildUpdate(layout, optimizer);
  for (const Op& op : update.ops()) all.mutable_ops().push_back(op);
  VITSCALE_ASSIGN_OR_RETURN(auto prepare, backend.Prepare(BuildPrepare(layout)));
  VITSCALE_RETURN_IF_ERROR(backend.Run(*prepare, {}, nullptr));
  VITSCALE_RETURN_IF_ERROR(backend.Run(*step, {}, nullptr));
  Profiler profiler(backend, repetitions);
  for (const Program& piece : Pieces(all)) VITSCALE_RETURN_IF_ERROR(profiler.Time(piece));
  return profiler.Take();
}

absl::StatusOr<std::vector<Tally>> ProfileUpdate(BenchReplica& replica,
                                                 const OptimizerConfig& optimizer,
                                                 int repetitions) {
  const ModelLayout& layout = replica.plan.layout;
  // Names all weights, so that there is something to copy.
  VITSCALE_ASSIGN_OR_RETURN(auto step, replica.backend->Prepare(BuildStep(layout, {})));
  Profiler profiler(*replica.backend, repetitions);
  for (const Program& piece : Pieces(BuildUpdate(layout, optimizer)))
    VITSCALE_RETURN_IF_ERROR(profiler.Time(piece));
  return profiler.Take().kinds;
}

nlohmann::json TalliesJson(const std::vector<Tally>& tallies) {
  const double total = SumOfSeconds(tallies);
  nlohmann::json list = nlohmann::json::array();
  for (const Tally& tally : tallies) {
    list.push_back({{"name", tally.name},
                    {"count", tally.count},
                    {"seconds", tally.seconds},
                    {"share", tally.seconds / total},
                    {"flops_per_second", tally.cost.flops / tally.seconds},
                    {"bytes_per_second", tally.cost.bytes / tally.seconds}});
  }
  return list;
}

nlohmann::json RooflineJson(const std::vector<Tally>& kinds, double ceiling_flops_per_second,
                            double ceiling_bytes_per_second) {
  nlohmann::json list = TalliesJson(kinds);
  for (size_t i = 0; i < kinds.size(); ++i) {
    const double compute = kinds[i].cost.flops / ceiling_flops_per_second;
    const double memory = kinds[i].cost.bytes / ceiling_bytes_per_second;
    list[i]["bound"] = compute >= memory ? "compute" : "memory";
    list[i]["ceiling_share"] = std::max(compute, memory) / kinds[i].seconds;
  }
  return list;
}

}  // namespace vitscale
