// CheckProgram: walks the ops, keeps track of panel groups; and the checks of input ops, Tanh and
// markers.

#include <algorithm>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/base/status.h"
#include "kernels/op_checker.h"

namespace vitscale {

void Check(const ImagesToPatchesArgs& a, OpChecker& c) {
  c.Is(a.images, "images", Only(DType::kU8), {kAny, kAny, kAny, kAny});
  c.Positive(a.crop_height, "crop_height");
  c.Positive(a.crop_width, "crop_width");
  c.Positive(a.patch, "patch");
  if (!c.ok()) return;
  const int64_t batch = a.images.shape[0], channels = a.images.shape[3];
  c.BatchInGroup(batch);
  c.Require(a.crop_height <= a.images.shape[1] && a.crop_width <= a.images.shape[2],
            absl::StrCat("the crop is ", a.crop_height, " x ", a.crop_width, ", want at most ",
                         a.images.shape[1], " x ", a.images.shape[2], ", the images"));
  c.Require(a.patch <= std::min(a.crop_height, a.crop_width),
            absl::StrCat("patch is ", a.patch, ", want at most the crop, ", a.crop_height, " x ",
                         a.crop_width));
  if (!c.ok()) return;
  const int64_t patches = (a.crop_height / a.patch) * (a.crop_width / a.patch);
  c.Is(a.augment, "augment", Only(DType::kI32), {batch, 3});
  c.Is(a.patches, "patches", kComputeOrF32, {batch * patches, a.patch * a.patch * channels});
}

void Check(const EmbedTokensArgs& a, OpChecker& c) {
  c.BatchInGroup(a.batch);
  c.Is(a.position, "position", kOnlyF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t patches = a.position.shape[0], width = a.position.shape[1];
  const int64_t tokens = patches + (a.class_token.present() ? 1 : 0);
  c.Is(a.embedding, "embedding", kComputeOrF32, {a.batch * patches, width});
  c.Maybe(a.class_token, "class_token", kOnlyF32, {width});
  c.Is(a.tokens, "tokens", kComputeOrF32, {a.batch * tokens, width});
}

void Check(const EmbedTokensGradArgs& a, OpChecker& c) {
  c.BatchInGroup(a.batch);
  c.Is(a.grad_embedding, "grad_embedding", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t rows = a.grad_embedding.shape[0], width = a.grad_embedding.shape[1];
  c.Require(rows % a.batch == 0, absl::StrCat("grad_embedding has ", rows,
                                              " rows, want a multiple of batch, ", a.batch));
  if (!c.ok()) return;
  const int64_t patches = rows / a.batch;
  const bool has_class = a.grad_class_token.present();
  c.Is(a.grad_tokens, "grad_tokens", kOnlyF32, {a.batch * (patches + (has_class ? 1 : 0)), width});
  c.Maybe(a.grad_position, "grad_position", kOnlyF32, {patches, width});
  c.Maybe(a.grad_class_token, "grad_class_token", kOnlyF32, {width});
}

void Check(const TanhArgs& a, OpChecker& c) {
  c.Is(a.x, "x", kComputeOrF32, {kAny, kAny});
  if (c.ok()) c.RowsInGroup(a.x.shape[0], "x");
  c.Is(a.y, "y", Only(a.x.dtype), a.x.shape);
}

void Check(const TanhGradArgs& a, OpChecker& c) {
  c.Is(a.grad_y, "grad_y", kComputeOrF32, {kAny, kAny});
  if (c.ok()) c.RowsInGroup(a.grad_y.shape[0], "grad_y");
  c.Is(a.y, "y", Only(a.grad_y.dtype), a.grad_y.shape);
  c.Is(a.grad_x, "grad_x", Only(a.grad_y.dtype), a.grad_y.shape);
}

void Check(const PanelBeginArgs& a, OpChecker& c) {
  c.Require(!c.in_group(), "stands inside a panel group, want it after PanelEnd");
  c.Positive(a.batch, "batch");
}
void Check(const PanelEndArgs&, OpChecker& c) {
  c.Require(c.in_group(), "has no PanelBegin before it");
}
void Check(const GradientsReadyArgs& a, OpChecker& c) {
  c.OutsideGroups();
  c.Require(a.bucket >= 0, absl::StrCat("bucket is ", a.bucket, ", want at least 0"));
}
void Check(const PhaseArgs&, OpChecker& c) { c.OutsideGroups(); }

namespace {

struct Range {
  Arena arena;
  int64_t begin, end;
  bool written;
  std::string name;
};

void CollectRange(void* context, TensorView& view, bool written) {
  auto* ranges = static_cast<std::vector<Range>*>(context);
  ranges->push_back({view.arena, view.offset, view.offset + view.bytes(), written, view.name});
}

// An op of a panel group writes its rows while another thread runs other ops of the group: partial
// overlaps of tensors would be races. The same range twice is the same tensor (y may be x).
absl::Status CheckGroupMemory(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    if (a.arena != b.arena) return a.arena < b.arena;
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  for (size_t i = 0; i < ranges.size(); ++i) {
    for (size_t j = i + 1; j < ranges.size(); ++j) {
      const Range &a = ranges[i], &b = ranges[j];
      if (b.arena != a.arena || b.begin >= a.end) break;
      if (a.begin == b.begin && a.end == b.end) continue;
      if (!a.written && !b.written) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("panel group: ", b.name, " lies in the memory of ", a.name, " at ",
                       ArenaName(a.arena), "+", b.begin, ", want tensors of a group apart"));
    }
  }
  return absl::OkStatus();
}

class ProgramChecker {
 public:
  absl::Status Step(Op op, int64_t index) {  // by value: VisitOperands takes a mutable op
    OpChecker checker(index, OpName(op), group_batch_);
    std::visit([&](const auto& args) { Check(args, checker); }, op);
    VITSCALE_RETURN_IF_ERROR(checker.status());
    if (const auto* begin = std::get_if<PanelBeginArgs>(&op)) group_batch_ = begin->batch;
    if (group_batch_ > 0) VisitOperands(op, &ranges_, CollectRange);
    if (!std::holds_alternative<PanelEndArgs>(op)) return absl::OkStatus();
    group_batch_ = 0;
    return CheckGroupMemory(std::exchange(ranges_, {}));
  }
  absl::Status End() const {
    if (group_batch_ == 0) return absl::OkStatus();
    return absl::InvalidArgumentError("the program ends inside a panel group, want PanelEnd");
  }

 private:
  int64_t group_batch_ = 0;  // 0 outside a group
  std::vector<Range> ranges_;
};

struct BoundsContext {
  const ArenaBytes& bytes;
  std::string place;
  absl::Status status;
};

void CheckViewBounds(void* context, TensorView& view, bool /*written*/) {
  auto& c = *static_cast<BoundsContext*>(context);
  const int64_t size = c.bytes[static_cast<int>(view.arena)];
  if (!c.status.ok() || view.offset + view.bytes() <= size) return;
  c.status = absl::InvalidArgumentError(absl::StrCat(c.place, ": ", DebugString(view), " ends at ",
                                                     view.offset + view.bytes(), ", want at most ",
                                                     size, ", the size of the arena"));
}

}  // namespace

absl::Status CheckProgram(const Program& program) {
  ProgramChecker checker;
  for (size_t i = 0; i < program.ops().size(); ++i) {
    VITSCALE_RETURN_IF_ERROR(checker.Step(program.ops()[i], static_cast<int64_t>(i)));
  }
  return checker.End();
}

absl::Status CheckBounds(const Program& program, const ArenaBytes& bytes) {
  BoundsContext context{bytes, "", absl::OkStatus()};
  for (size_t i = 0; i < program.ops().size() && context.status.ok(); ++i) {
    Op op = program.ops()[i];
    context.place = absl::StrCat("op ", i, " ", OpName(op));
    VisitOperands(op, &context, CheckViewBounds);
  }
  return context.status;
}

absl::Status CheckHostCopy(const TensorView& view, const ArenaBytes& arenas, size_t host_bytes) {
  const int64_t arena = arenas[static_cast<int>(view.arena)];
  if (!view.present() || view.offset + view.bytes() > arena) {
    return absl::InvalidArgumentError(
        absl::StrCat(DebugString(view), " lies outside its arena of ", arena, " bytes"));
  }
  if (host_bytes != static_cast<size_t>(view.bytes())) {
    return absl::InvalidArgumentError(
        absl::StrCat(view.name, " has ", view.bytes(), " bytes, the host gave ", host_bytes));
  }
  return absl::OkStatus();
}

}  // namespace vitscale
