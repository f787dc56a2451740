// Votes to leave, and orphans whose coordinator is gone.

#include "tests/worker/trainer/core_fixture.h"

namespace vitscale {
namespace {

using link::Stage;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(TrainerCoreTest, AVoteCastInAStepActsAfterTheNextOneOnEveryRank) {
  for (int voter : {0, 1}) {
    FakeGang gang(2, Facts());
    gang.Form(1);
    ASSERT_TRUE(gang.RunUntil([&] {
      return gang.rank(voter).core->observed().step == 4 && InOperation(gang, voter, kApplyIndex);
    }));
    // The record of step 6 is the first that is made after the order; so all stop after step 7.
    gang.Order(voter, Stage::kGo, 1,
               [](auto& desired) { desired.intent = link::Intent::kPreempt; });
    gang.RunUntilQuiet();
    for (int rank : {0, 1}) {
      ASSERT_TRUE(gang.rank(rank).exit);
      EXPECT_EQ(gang.rank(rank).exit->code, 75);
      EXPECT_EQ(gang.rank(rank).state, StateAfter(7));
    }
    EXPECT_THAT(ManifestSteps(gang), ElementsAre(4, 7));
    EXPECT_EQ(StepsEmitted(gang.rank(0)), UpTo(7));
  }
}

TEST(TrainerCoreTest, AStopAtTheLastStepFinishes) {
  FakeGang gang(2, Facts(6, 100));
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.rank(0).core->observed().step == 5; }));
  for (int rank : {0, 1}) {
    gang.Order(rank, Stage::kGo, 1, [](auto& desired) { desired.intent = link::Intent::kPause; });
  }
  gang.RunUntilQuiet();
  for (int rank : {0, 1}) EXPECT_TRUE(gang.rank(rank).core->observed().finished);
}

TEST(TrainerCoreTest, AGenerationForLeavingSavesNothingTwice) {
  FakeGang gang(2, Facts());
  gang.manifests["job000000000/a0001.g0001.step_000000004"] = {1, StateAfter(4)};
  for (int rank : {0, 1}) gang.Order(rank, Stage::kForm, 2);
  gang.RunUntilQuiet();
  for (int rank : {0, 1}) {
    gang.Order(rank, Stage::kGo, 2, [&](auto& desired) {
      desired.source = gang.NewestSource();
      desired.purpose = link::Purpose::kCheckpointAndExit;
    });
  }
  gang.RunUntilQuiet();
  for (int rank : {0, 1}) {
    ASSERT_TRUE(gang.rank(rank).exit);
    EXPECT_EQ(gang.rank(rank).exit->code, 75);
    EXPECT_EQ(gang.rank(rank).core->observed().checkpoint,
              "job000000000/a0001.g0001.step_000000004");
  }
  EXPECT_THAT(gang.manifests, SizeIs(1));
}

TEST(TrainerCoreTest, LeavingBeforeTheFirstStepHasNothingToSave) {
  FakeGang gang(1, Facts());
  gang.Order(0, Stage::kForm, 1);
  gang.RunUntilQuiet();
  gang.Order(0, Stage::kGo, 1, [&](auto& desired) {
    desired.source = gang.NewestSource();
    desired.purpose = link::Purpose::kCheckpointAndExit;
  });
  gang.RunUntilQuiet();
  ASSERT_TRUE(gang.rank(0).exit);
  EXPECT_EQ(gang.rank(0).exit->code, 76);
}

TEST(TrainerCoreTest, AnOrphanInAWholeGenerationStopsWithACheckpoint) {
  FakeGang gang(2, Facts());
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.rank(0).core->observed().step == 5; }));
  link::TrainerOrder order;
  order.orphaned = true;
  gang.Feed(0, OrderEvent{order});
  gang.RunUntilQuiet();
  for (int rank : {0, 1}) EXPECT_EQ(gang.rank(rank).exit->code, 75);
  EXPECT_THAT(gang.manifests, SizeIs(2));
}

TEST(TrainerCoreTest, AnOrphanWhoseGenerationIsBrokenSavesUnderANameOfItsOwn) {
  FakeGang gang(2, Facts());
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.rank(0).core->observed().step == 3; }));
  gang.Kill(1);
  gang.RunUntilQuiet();
  link::TrainerOrder order;
  order.orphaned = true;
  gang.Feed(0, OrderEvent{order});
  gang.RunUntilQuiet();
  EXPECT_THAT(gang.rank(0).log, Contains("EmergencySave"));
  EXPECT_EQ(gang.rank(0).exit->code, 75);
  EXPECT_THAT(gang.manifests, IsEmpty());
}

}  // namespace
}  // namespace vitscale
