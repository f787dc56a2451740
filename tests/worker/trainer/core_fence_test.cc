// The promise of a generation waits for what is under way, and the fence for the promise.

#include "tests/worker/trainer/core_fixture.h"

namespace vitscale {
namespace {

using link::Stage;

TEST(TrainerCoreTest, APromiseWaitsForTheStepUnderWayWhichThenIsNotApplied) {
  FakeGang gang(2, Facts());
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] {
    return gang.rank(0).core->observed().step == 5 && InOperation(gang, 0, kStepIndex) &&
           InOperation(gang, 1, kStepIndex);
  }));
  const ControlRecord own = std::get<StepOp>(*gang.rank(0).operation).record;
  const ControlRecord other = std::get<StepOp>(*gang.rank(1).operation).record;
  gang.Order(0, Stage::kForm, 2);
  EXPECT_EQ(gang.rank(0).log.back(), "Abort");
  EXPECT_EQ(gang.rank(0).core->observed().promised_generation, 1);
  Exchanged exchanged;  // it was complete before the abort came
  exchanged.records = {own, other};
  exchanged.records[0].images = exchanged.records[1].images = 4;
  gang.End(0, exchanged);
  EXPECT_EQ(gang.rank(0).core->observed().promised_generation, 2);
  EXPECT_EQ(gang.rank(0).state, StateAfter(5));
  EXPECT_FALSE(InOperation(gang, 0, kApplyIndex));
}

TEST(TrainerCoreTest, APromiseWaitsForTheUpdateUnderWayAndTheVersionCountsIt) {
  FakeGang gang(2, Facts());
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] {
    return gang.rank(0).core->observed().step == 5 && InOperation(gang, 0, kApplyIndex);
  }));
  gang.Order(0, Stage::kForm, 2);
  EXPECT_EQ(gang.rank(0).core->observed().promised_generation, 1);
  gang.End(0, Applied{});
  EXPECT_EQ(gang.rank(0).core->observed().promised_generation, 2);
  EXPECT_EQ(gang.rank(0).core->observed().version->step, 6);
  EXPECT_EQ(gang.rank(0).core->observed().version->established_generation, 1);
}

TEST(TrainerCoreTest, APromiseWaitsForAManifestUnderWay) {
  FakeGang gang(1, Facts(20, 4));
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] {
    const auto& log = gang.rank(0).log;
    return std::find(log.begin(), log.end(), "WriteManifest") != log.end();
  }));
  gang.Order(0, Stage::kForm, 2);
  gang.rank(0).operation.reset();
  gang.Feed(0, Exchanged{{absl::CancelledError("aborted"), Fault::kCollective, {}}});
  EXPECT_EQ(gang.rank(0).core->observed().promised_generation, 1);
  gang.Feed(0, ManifestWritten{1, 4, absl::OkStatus(), {}, {}});
  EXPECT_EQ(gang.rank(0).core->observed().promised_generation, 2);
}

TEST(TrainerCoreTest, LowerGenerationsAreIgnoredAndAnotherAttemptFencesItOut) {
  FakeGang gang(1, Facts());
  gang.Order(0, Stage::kForm, 5);
  gang.RunUntilQuiet();
  gang.Order(0, Stage::kGo, 4, [&](auto& desired) { desired.source = gang.NewestSource(); });
  EXPECT_FALSE(gang.rank(0).operation);
  gang.Order(0, Stage::kGo, 5, [](auto& desired) { desired.attempt = 0; });
  EXPECT_FALSE(gang.rank(0).operation);
  gang.Order(0, Stage::kPrepare, 6, [](auto& desired) { desired.attempt = 2; });
  ASSERT_TRUE(gang.rank(0).exit);
  EXPECT_EQ(gang.rank(0).exit->code, 85);
}

TEST(TrainerCoreTest, ABrokenGenerationIsNotEnteredAgain) {
  FakeGang gang(2, Facts());
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.rank(0).core->observed().step == 2; }));
  gang.Kill(1);
  gang.RunUntilQuiet();
  gang.Order(0, Stage::kGo, 1, [&](auto& desired) { desired.source = gang.NewestSource(); });
  EXPECT_FALSE(gang.rank(0).operation);
  EXPECT_TRUE(gang.rank(0).core->observed().collective_failed);
}

TEST(TrainerCoreTest, AKillWaitsForNothing) {
  FakeGang gang(2, Facts());
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return InOperation(gang, 0, kApplyIndex); }));
  gang.Order(0, Stage::kExit, 1, [](auto& desired) { desired.kill = true; });
  EXPECT_TRUE(gang.rank(0).exit);
}

}  // namespace
}  // namespace vitscale
