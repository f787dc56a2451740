#include "worker/model/activations.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/status.h"

namespace vitscale {
namespace {

struct Life {
  int first = -1, last = -1;  // ops, rounded to panel groups
  int64_t bytes = 0;
  int64_t offset = 0;

  bool Meets(const Life& other) const { return first <= other.last && other.first <= last; }
};

struct Survey {
  std::vector<Life> lives;  // by symbolic offset / kSymbolicStride
  int begin = 0, end = 0;   // of the group of the op at hand

  static void Visit(void* context, TensorView& view, bool /*written*/) {
    if (view.arena == Arena::kActivations) static_cast<Survey*>(context)->Note(view);
  }
  void Note(const TensorView& view) {
    const size_t index = view.offset / kSymbolicStride;
    if (index >= lives.size()) lives.resize(index + 1);
    Life& life = lives[index];
    if (life.first < 0) life.first = begin;
    life.last = end;
    life.bytes = std::max(life.bytes, AlignUp(view.offset % kSymbolicStride + view.bytes()));
  }
  static void Place(void* context, TensorView& view, bool /*written*/) {
    if (view.arena != Arena::kActivations) return;
    const Life& life = static_cast<Survey*>(context)->lives[view.offset / kSymbolicStride];
    view.offset = life.offset + view.offset % kSymbolicStride;
  }
};

// Largest first, each at the lowest gap between those already placed that live at the same time.
// `placed` is kept in order of offset.
int64_t PlaceLives(std::vector<Life>& lives) {
  std::vector<int> order(lives.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return lives[a].bytes > lives[b].bytes; });
  std::vector<const Life*> placed;
  int64_t size = 0;
  for (int index : order) {
    Life& life = lives[index];
    for (const Life* other : placed) {
      if (other->offset + other->bytes <= life.offset || !life.Meets(*other)) continue;
      if (other->offset >= life.offset + life.bytes) break;
      life.offset = other->offset + other->bytes;
    }
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), &life,
                         [](const Life* a, const Life* b) { return a->offset < b->offset; }),
        &life);
    size = std::max(size, life.offset + life.bytes);
  }
  return size;
}

}  // namespace

std::vector<int> GroupEnds(const Program& program) {
  const int count = static_cast<int>(program.ops().size());
  std::vector<int> ends(count);
  int end = count;
  for (int i = count - 1; i >= 0; --i) {
    const Op& op = program.ops()[i];
    if (std::holds_alternative<PanelEndArgs>(op)) end = i;
    ends[i] = end < count ? end : i;
    if (std::holds_alternative<PanelBeginArgs>(op)) end = count;
  }
  return ends;
}

int64_t AssignActivations(Program& program) {
  const std::vector<int> ends = GroupEnds(program);
  std::vector<Op>& ops = program.mutable_ops();
  Survey survey;
  for (size_t i = 0; i < ops.size(); ++i) {
    if (survey.end < static_cast<int>(i) || i == 0) survey.begin = static_cast<int>(i);
    survey.end = ends[i];
    VisitOperands(ops[i], &survey, Survey::Visit);
  }
  const int64_t bytes = PlaceLives(survey.lives);
  for (Op& op : ops) VisitOperands(op, &survey, Survey::Place);
  return bytes;
}

int64_t ActivationBytes(Program& program) {
  int64_t bytes = 0;
  const OperandVisitor visit = [](void* context, TensorView& view, bool /*written*/) {
    auto& most = *static_cast<int64_t*>(context);
    if (view.arena == Arena::kActivations)
      most = std::max(most, view.offset + AlignUp(view.bytes()));
  };
  for (Op& op : program.mutable_ops()) VisitOperands(op, &bytes, visit);
  return bytes;
}

}  // namespace vitscale
