// What is recorded of steps: divergence, history for a new reporter, where the time went.

#include "tests/worker/trainer/core_fixture.h"

namespace vitscale {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TrainerCoreTest, ANonFiniteLossOnOneRankIsSeenByAllAlike) {
  FakeGang gang(2, Facts(12, 4));
  gang.non_finite = {{1, 6}};
  gang.Form(1);
  gang.RunUntilQuiet();
  for (int rank : {0, 1}) {
    ASSERT_TRUE(gang.rank(rank).exit);
    EXPECT_EQ(gang.rank(rank).exit->code, 81);
    EXPECT_THAT(gang.rank(rank).exit->error, HasSubstr("step 6"));
    EXPECT_EQ(gang.rank(rank).state.digest, StateAfter(5).digest) << "no update with it";
  }
  EXPECT_EQ(StepsEmitted(gang.rank(0)), UpTo(6))
      << "the record of the step that failed is handed in";
  EXPECT_TRUE(RecordsOf<link::StepRecord>(gang.rank(0)).back().skipped);
  EXPECT_THAT(ManifestSteps(gang), ElementsAre(4)) << "nothing is saved after it";
}

TEST(TrainerCoreTest, PolicySkipGoesOnUntilTooManyInARow) {
  RunFacts facts = Facts(12, 4);
  facts.skip_non_finite = true;
  facts.skips_max = 2;
  FakeGang gang(2, facts);
  gang.non_finite = {{0, 3}, {1, 4}, {0, 7}};
  gang.Form(1);
  gang.RunUntilQuiet();
  EXPECT_TRUE(gang.rank(0).core->observed().finished);
  EXPECT_EQ(gang.rank(0).core->non_finite_steps(), 3);

  FakeGang worse(2, facts);
  worse.non_finite = {{0, 3}, {1, 4}, {0, 5}};
  worse.Form(1);
  worse.RunUntilQuiet();
  ASSERT_TRUE(worse.rank(1).exit);
  EXPECT_EQ(worse.rank(1).exit->code, 81);
}

TEST(TrainerCoreTest, ANewReporterIsHandedWhatADeadOneKept) {
  FakeGang gang(2, Facts(12, 4));
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.manifests.size() == 2; }));
  ASSERT_GE(gang.rank(1).core->observed().committed_step, 9);
  gang.Kill(0);
  gang.RunUntilQuiet();
  gang.Restart(0);
  gang.Form(2);
  gang.RunUntilQuiet();
  EXPECT_EQ(StepsEmitted(gang.rank(1)), UpTo(8))
      << "what is in the lineage, not what was rolled back";
}

TEST(TrainerCoreTest, SecondsByStateAddUpToWallTime) {
  FakeGang gang(2, Facts(12, 4));
  const absl::Time began = gang.now + absl::Milliseconds(10);
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.rank(0).core->observed().step == 6; }));
  gang.Kill(1);
  gang.Restart(1);
  gang.Form(2);
  gang.RunUntilQuiet();
  gang.Feed(0, Tick{});
  const link::Goodput& g = gang.rank(0).core->goodput();
  EXPECT_GT(g.recomputed, 0);
  EXPECT_GT(g.productive, 0);
  EXPECT_GT(g.recovering, 0);
  // Sums of at most 300 intervals of 0.01 s.
  EXPECT_NEAR(g.productive + g.recomputed + g.recovering + g.checkpoint_stall + g.input_stall +
                  g.evaluation + g.queued,
              absl::ToDoubleSeconds(gang.now - began), 1e-9);
}

}  // namespace
}  // namespace vitscale
