#include "kernels/cpu/executor.h"

#include <algorithm>

namespace vitscale::cpu {
namespace {

// So that what one op writes (a panel of MLP activations: rows * 4 width * 2 bytes) is still in a
// core's own cache when the next op reads it, and matmuls are tall enough: 196 to 784 rows reach
// over 95 % of what one call on the whole batch reaches.
constexpr int64_t kPanelRows = 392;
// So that a few threads have something to do with small batches and with one row per image.
constexpr int64_t kPanelsMin = 4;

// The share of `thread` of [0, count): contiguous, sizes differ by at most one.
struct Share {
  Share(int64_t count, int thread, int threads)
      : begin(count * thread / threads), end(count * (thread + 1) / threads) {}
  int64_t begin, end;
};

class Walk {
 public:
  Walk(const CpuProgram& program, std::byte* scratch, ThreadPool& pool, const StepScalars& scalars,
       MarkerSink* sink, int thread)
      : program_(program), pool_(pool), sink_(thread == 0 ? sink : nullptr) {
    context_.thread = thread;
    context_.scalars = &scalars;
    context_.scratch = scratch;
  }

  void Run() {
    for (const Step& step : program_.steps) {
      switch (step.kind) {
        case Step::Kind::kOp:
          step.ops.size() == 1 ? Op(*step.ops[0]) : Independent(step);
          break;
        case Step::Kind::kGroup:
          Group(step);
          break;
        case Step::Kind::kGradientsReady:
          if (sink_ != nullptr) sink_->OnGradientsReady(step.bucket);
          break;
        case Step::Kind::kPhase:
          if (sink_ != nullptr) sink_->OnPhase(step.phase);
          break;
      }
    }
  }

 private:
  void Phase(CpuOp& op, int phase) {
    const Share share(op.items(phase), context_.thread, pool_.size());
    if (share.begin < share.end) op.Run(context_, phase, share.begin, share.end);
  }

  void Op(CpuOp& op) {
    for (int phase = 0; phase < op.phases(); ++phase) {
      Phase(op, phase);
      pool_.Barrier();
    }
  }

  // This thread's share of the cost of all items, laid end to end; an item belongs to where it
  // begins.
  void Independent(const Step& step) {
    int64_t total = 0;
    for (const auto& op : step.ops) total += op->items(0) * op->item_cost();
    const Share share(total, context_.thread, pool_.size());
    int64_t at = 0;
    for (const auto& op : step.ops) {
      const int64_t cost = op->item_cost(), items = op->items(0);
      const auto first_from =
          [&](int64_t place) {  // the first item that begins at or after `place`
            return std::clamp<int64_t>((place - at + cost - 1) / cost, 0, items);
          };
      const int64_t begin = first_from(share.begin), end = first_from(share.end);
      if (begin < end) op->Run(context_, 0, begin, end);
      at += items * cost;
    }
    pool_.Barrier();
  }

  void Group(const Step& group) {
    const int64_t panels = (group.batch + group.panel_items - 1) / group.panel_items;
    const Share share(panels, context_.thread, pool_.size());
    for (int64_t panel = share.begin; panel < share.end; ++panel) {
      const int64_t begin = panel * group.panel_items;
      const int64_t end = std::min(group.batch, begin + group.panel_items);
      for (const auto& op : group.ops) op->Run(context_, 0, begin, end);
    }
    pool_.Barrier();
    LaterPhases(group);
  }

  // Phase 1 of all ops needs phase 0 of all threads and nothing else, so that they share one
  // barrier.
  void LaterPhases(const Step& group) {
    int phases = 1;
    for (const auto& op : group.ops) phases = std::max(phases, op->phases());
    for (int phase = 1; phase < phases; ++phase) {
      for (const auto& op : group.ops) {
        if (phase < op->phases()) Phase(*op, phase);
      }
      pool_.Barrier();
    }
  }

  const CpuProgram& program_;
  ThreadPool& pool_;
  MarkerSink* sink_;
  RunContext context_;
};

}  // namespace

int64_t PanelItems(int64_t batch, int64_t tokens_max) {
  const int64_t by_rows = kPanelRows / std::max<int64_t>(1, tokens_max);
  return std::clamp<int64_t>(std::min(by_rows, batch / kPanelsMin), 1, batch);
}

void Execute(const CpuProgram& program, const std::vector<Memory>& scratch, ThreadPool& pool,
             const StepScalars& scalars, MarkerSink* sink) {
  pool.Run([&](int thread) {
    Walk(program, scratch[thread].data(), pool, scalars, sink, thread).Run();
  });
}

}  // namespace vitscale::cpu
