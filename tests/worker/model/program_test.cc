// The programs as lists: every operand in its place, nothing overwritten that is still needed.

#include <map>
#include <set>

#include "kernels/backend.h"
#include "tests/status_matchers.h"
#include "worker/model/activations.h"
#include "worker/model/vit.h"
#include "worker/plan/plan.h"

namespace vitscale {
namespace {

struct Touch {
  TensorView view;
  bool written;
};
std::vector<Touch> Touches(Op& op) {
  std::vector<Touch> touches;
  VisitOperands(op, &touches, [](void* context, TensorView& view, bool written) {
    static_cast<std::vector<Touch>*>(context)->push_back({view, written});
  });
  return touches;
}

// Plays a program on memory that remembers, by cache line, which tensor it holds. Tensors are told
// apart by name.
class MemoryPlay {
 public:
  explicit MemoryPlay(int64_t bytes) : holder_(bytes / kTensorAlignment) {}

  void Run(Program& program) {
    const std::vector<int> ends = GroupEnds(program);
    int begin = 0;
    for (size_t i = 0; i < ends.size(); ++i) {
      if (ends[i] == static_cast<int>(i)) {
        Group(program, begin, i);
        begin = i + 1;
      }
    }
  }

 private:
  void Group(Program& program, int begin, int end) {
    std::map<std::string, Touch> members;
    std::set<std::string> written;
    for (int i = begin; i <= end; ++i) {
      Op& op = program.mutable_ops()[i];
      for (const Touch& touch : Touches(op)) {
        if (touch.view.arena != Arena::kActivations) continue;
        members.emplace(touch.view.name, touch);
        if (touch.written) continue;
        if (written.count(touch.view.name) == 0) ExpectHeld(touch.view, OpName(op));
      }
      for (const Touch& touch : Touches(op)) {
        if (touch.written) written.insert(touch.view.name);
      }
    }
    ExpectDisjoint(members);
    for (const auto& [name, touch] : members) {
      if (written.count(name) > 0) Hold(touch.view);
    }
  }

  void ExpectHeld(const TensorView& view, const char* op) {
    for (int64_t line = First(view); line < End(view); ++line) {
      if (holder_[line] == view.name) continue;
      ADD_FAILURE() << op << " reads " << DebugString(view) << " but line " << line << " holds '"
                    << holder_[line] << "'";
      return;
    }
  }
  static void ExpectDisjoint(const std::map<std::string, Touch>& members) {
    for (auto a = members.begin(); a != members.end(); ++a) {
      for (auto b = std::next(a); b != members.end(); ++b) {
        const TensorView &x = a->second.view, &y = b->second.view;
        EXPECT_TRUE(End(x) <= First(y) || End(y) <= First(x))
            << DebugString(x) << " meets " << DebugString(y);
      }
    }
  }
  void Hold(const TensorView& view) {
    for (int64_t line = First(view); line < End(view); ++line) holder_[line] = view.name;
  }
  static int64_t First(const TensorView& view) { return view.offset / kTensorAlignment; }
  static int64_t End(const TensorView& view) {
    return (view.offset + AlignUp(view.bytes())) / kTensorAlignment;
  }

  std::vector<std::string> holder_;
};

PlanRequest Tiny() {
  PlanRequest request;
  request.model.SetShape({4, 16, 2, 2, 24});
  request.model.image_size = 12;
  request.model.channels = 1;
  request.model.classes = 5;
  request.batch_micro = 3;
  request.batch_global = 6;
  request.bucket_bytes = 4096;
  return request;
}

using Case = std::tuple<PoolKind, PositionKind, Precision, int /*representation*/, RecomputeLevel,
                        DType /*residual*/>;
class ProgramTest : public testing::TestWithParam<Case> {
 protected:
  Plan plan_ = [] {
    PlanRequest request = Tiny();
    std::tie(request.model.pool, request.model.position, request.precision,
             request.model.representation_size, request.recompute, request.model.residual) =
        GetParam();
    return MakePlan(request).value();
  }();
  std::vector<Program> AllPrograms() {
    std::vector<Program> programs;
    for (bool first : {true, false}) {
      for (bool last : {true, false}) programs.push_back(BuildStep(plan_.layout, {first, last}));
      programs.push_back(BuildEval(plan_.layout, first));
    }
    programs.push_back(BuildUpdate(plan_.layout, {}));
    programs.push_back(BuildPrepare(plan_.layout));
    programs.push_back(BuildDigest(plan_.layout));
    return programs;
  }
};

TEST_P(ProgramTest, EveryOperandLiesAlignedInsideItsArena) {
  for (Program& program : AllPrograms()) {
    for (Op& op : program.mutable_ops()) {
      for (const Touch& touch : Touches(op)) {
        const TensorView& v = touch.view;
        EXPECT_EQ(v.offset % kTensorAlignment, 0) << OpName(op) << ": " << DebugString(v);
        EXPECT_LE(v.offset + v.bytes(), plan_.arena_bytes[static_cast<int>(v.arena)])
            << OpName(op) << ": " << DebugString(v);
      }
    }
  }
}

TEST_P(ProgramTest, NothingIsOverwrittenThatIsStillNeeded) {
  for (Program& program : AllPrograms()) {
    MemoryPlay(plan_.arena_bytes[static_cast<int>(Arena::kActivations)]).Run(program);
  }
}

TEST_P(ProgramTest, EveryOpPassesTheBackendsCheck) {
  for (const Program& program : AllPrograms()) EXPECT_THAT(CheckProgram(program), IsOk());
}

TEST_P(ProgramTest, EveryGradientIsWrittenInEachMicroBatch) {
  for (bool first : {true, false}) {
    std::set<int64_t> written;
    Program program = BuildStep(plan_.layout, {first, true});
    for (Op& op : program.mutable_ops()) {
      for (const Touch& touch : Touches(op)) {
        if (touch.written && touch.view.arena == Arena::kGradients) {
          EXPECT_TRUE(written.insert(touch.view.offset).second)
              << "twice: " << DebugString(touch.view);
        }
      }
    }
    for (const Parameter& p : plan_.layout.table.parameters()) {
      EXPECT_EQ(written.count(p.gradient_offset * 4), 1u) << p.name;
    }
  }
}

TEST_P(ProgramTest, BucketsBecomeReadyOnceInOrderAndOnlyWhenFinal) {
  Program program = BuildStep(plan_.layout, {true, true});
  std::vector<int> ready;
  bool in_group = false;
  for (Op& op : program.mutable_ops()) {
    in_group |= std::holds_alternative<PanelBeginArgs>(op);
    if (std::holds_alternative<PanelEndArgs>(op)) in_group = false;
    if (const auto* marker = std::get_if<GradientsReadyArgs>(&op)) {
      EXPECT_FALSE(in_group);
      EXPECT_EQ(marker->bucket, static_cast<int>(ready.size()));
      ready.push_back(marker->bucket);
    }
    for (const Touch& touch : Touches(op)) {
      if (!touch.written || touch.view.arena != Arena::kGradients || ready.empty()) continue;
      const Bucket& last = plan_.layout.buckets[ready.back()];
      EXPECT_GE(touch.view.offset, last.offset_bytes + last.bytes) << DebugString(touch.view);
    }
  }
  EXPECT_EQ(ready.size(), plan_.layout.buckets.size());
}

TEST_P(ProgramTest, OnlyTheLastMicroBatchTellsThatGradientsAreReady) {
  for (bool first : {true, false}) {
    const Program program = BuildStep(plan_.layout, {first, false});
    for (const Op& op : program.ops()) {
      EXPECT_FALSE(std::holds_alternative<GradientsReadyArgs>(op));
    }
  }
}

TEST_P(ProgramTest, StepTouchesNoStateAndUpdateNoActivationOfTheStep) {
  Program step = BuildStep(plan_.layout, {true, true});
  for (Op& op : step.mutable_ops()) {
    for (const Touch& touch : Touches(op)) {
      const Arena arena = touch.view.arena;
      EXPECT_NE(arena, Arena::kMomentum);
      EXPECT_NE(arena, Arena::kSecondMoment);
      if (touch.written) {
        EXPECT_NE(arena, Arena::kParameters) << DebugString(touch.view);
      }
    }
  }
}

TEST_P(ProgramTest, PanelGroupsHoldNoOpThatNeedsAllRows) {
  Program program = BuildStep(plan_.layout, {true, true});
  bool inside = false;
  for (const Op& op : program.ops()) {
    if (std::holds_alternative<PanelBeginArgs>(op)) {
      EXPECT_FALSE(inside);
      inside = true;
    } else if (std::holds_alternative<PanelEndArgs>(op)) {
      EXPECT_TRUE(inside);
      inside = false;
    } else if (inside) {
      EXPECT_FALSE(std::holds_alternative<LinearGradWeightArgs>(op));
      EXPECT_FALSE(std::holds_alternative<SigmoidLossArgs>(op));
    }
  }
  EXPECT_FALSE(inside);
}

INSTANTIATE_TEST_SUITE_P(
    EveryModel, ProgramTest,
    testing::Combine(testing::Values(PoolKind::kMap, PoolKind::kGap, PoolKind::kCls),
                     testing::Values(PositionKind::kLearned, PositionKind::kSincos2d),
                     testing::Values(Precision::kBf16, Precision::kF32), testing::Values(0, 24),
                     testing::Values(RecomputeLevel::kNone, RecomputeLevel::kGeluAndLayerNorm,
                                     RecomputeLevel::kBlock),
                     testing::Values(DType::kF32, DType::kBf16)));

// Logits of 64, 64 and 2 images: the pieces are rows of tensors that live longer.
TEST(WideHeadProgramTest, PiecesLieAlignedAndOverwriteNothingThatIsStillNeeded) {
  for (const PoolKind pool : {PoolKind::kMap, PoolKind::kGap}) {
    for (const LabelKind labels : {LabelKind::kClassId, LabelKind::kSparse, LabelKind::kDense}) {
      PlanRequest request = Tiny();
      request.model.pool = pool;
      request.labels = labels;
      request.batch_micro = request.batch_global = 130;
      request.logit_bytes_max = 1;
      const Plan plan = MakePlan(request).value();
      Program step = BuildStep(plan.layout, {true, true}), eval = BuildEval(plan.layout, true);
      for (Program* program : {&step, &eval}) {
        EXPECT_THAT(CheckProgram(*program), IsOk());
        EXPECT_THAT(CheckBounds(*program, plan.arena_bytes), IsOk());
        MemoryPlay(plan.arena_bytes[static_cast<int>(Arena::kActivations)]).Run(*program);
      }
      EXPECT_LE(ActivationBytes(step), plan.step_activation_bytes);
    }
  }
}

TEST(UpdateProgramTest, RatesAndDecaysFollowTheGroups) {
  const Plan plan = MakePlan(Tiny()).value();
  OptimizerConfig optimizer;
  optimizer.learning_rate = 1e-3;
  const Program program = BuildUpdate(plan.layout, optimizer);
  const AdafactorApplyArgs* apply = nullptr;
  for (const Op& op : program.ops()) {
    if (const auto* found = std::get_if<AdafactorApplyArgs>(&op)) apply = found;
  }
  ASSERT_NE(apply, nullptr);
  ASSERT_EQ(apply->tensors.size(), plan.layout.table.parameters().size());
  for (const OptimizedTensor& t : apply->tensors) {
    const Parameter* p = plan.layout.table.Find(t.parameter.name);
    const double decay = p->decay == DecayGroup::kHead   ? 3.0
                         : p->decay == DecayGroup::kBody ? 0.03
                                                         : 0;
    EXPECT_FLOAT_EQ(t.weight_decay, 1e-3 * decay) << p->name;
    EXPECT_FLOAT_EQ(t.learning_rate, 1e-3) << p->name;
  }
}

TEST(SincosTest, FollowsRowAndColumnWithTheOffByOneFrequencyScale) {
  ModelConfig model = Tiny().model;  // grid 3x3, width 16: four frequencies 1 … 1e-4
  const std::vector<float> positions = Sincos2dPositions(model);
  const float* token = &positions[5 * 16];  // row 1, column 2
  const double last = 1e-4;                 // 10000^(-3/3)
  EXPECT_FLOAT_EQ(token[0], std::sin(2.0));
  EXPECT_FLOAT_EQ(token[4], std::cos(2.0));
  EXPECT_FLOAT_EQ(token[8], std::sin(1.0));
  EXPECT_FLOAT_EQ(token[12], std::cos(1.0));
  EXPECT_FLOAT_EQ(token[3], std::sin(2.0 * last));
  EXPECT_FLOAT_EQ(token[11], std::sin(1.0 * last));
}

}  // namespace
}  // namespace vitscale
