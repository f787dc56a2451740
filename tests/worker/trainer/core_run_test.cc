// The plain run, errors before it, and a kill at every turn of it.

#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/worker/trainer/core_fixture.h"

namespace vitscale {
namespace {

using link::Stage;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::SizeIs;

class PlainRunTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(OneToThreeRanks, PlainRunTest, ::testing::Values(1, 2, 3));

TEST_P(PlainRunTest, TrainsToTheEndSavesOnTheWayAndFinishesBeforeItLeaves) {
  RunFacts facts = Facts(10, 4);
  facts.eval_every = {5, 0};
  FakeGang gang(GetParam(), facts);
  gang.Form(1);
  gang.RunUntilQuiet();
  EXPECT_EQ(StepsEmitted(gang.rank(0)), UpTo(10));
  EXPECT_THAT(ManifestSteps(gang), ElementsAre(4, 8, 10));
  EXPECT_EQ(gang.manifests.at("job000000000/a0001.g0001.step_000000010").state, StateAfter(10));
  for (int i = 0; i < gang.size(); ++i) {
    const link::ObservedState& observed = gang.rank(i).core->observed();
    EXPECT_TRUE(observed.finished);
    EXPECT_EQ(observed.checkpoint, "job000000000/a0001.g0001.step_000000010");
    EXPECT_EQ(observed.committed_step, 10);
    EXPECT_FALSE(gang.rank(i).exit) << "leaves only when told to";
    EXPECT_EQ(gang.rank(i).records.empty(), i > 0) << "one reporter";
    gang.Order(i, Stage::kExit, 1);
    ASSERT_TRUE(gang.rank(i).exit);
    EXPECT_EQ(gang.rank(i).exit->code, 0);
  }
  std::vector<std::string> evals;
  for (const auto& eval : RecordsOf<link::EvalRecord>(gang.rank(0))) {
    evals.push_back(absl::StrCat(eval.name, "@", eval.step, eval.final ? " final" : ""));
  }
  EXPECT_THAT(evals, ElementsAre("eval0@5", "eval0@10 final", "eval1@10 final"));
}

TEST(TrainerCoreTest, StaysBelowGoUntilToldAndShowsWhatItHolds) {
  FakeGang gang(1, Facts());
  gang.manifests["job000000000/a0001.g0001.step_000000004"] = {1, StateAfter(4)};
  gang.Order(0, Stage::kPrepare, 0);
  gang.RunUntilQuiet();
  const link::ObservedState& observed = gang.rank(0).core->observed();
  EXPECT_EQ(observed.stage, Stage::kPrepare);
  EXPECT_EQ(observed.data_address, "127.0.0.1:1");
  EXPECT_EQ(observed.total_steps, 12);
  EXPECT_THAT(observed.checkpoints, SizeIs(1));
  gang.Order(0, Stage::kForm, 2);
  gang.RunUntilQuiet();
  EXPECT_EQ(observed.stage, Stage::kForm);
  EXPECT_EQ(observed.promised_generation, 2);
  EXPECT_THAT(gang.rank(0).log, ElementsAre("Prepare", "List", "List"));
}

TEST(TrainerCoreTest, PrepareErrorsExitWithTheCodeOfWhoseFaultItIs) {
  const std::vector<std::pair<Fault, int>> kCases = {
      {Fault::kConfiguration, 78}, {Fault::kData, 80}, {Fault::kDevice, 83}, {Fault::kStorage, 84}};
  for (const auto& [fault, code] : kCases) {
    FakeGang gang(1, Facts());
    gang.fail = [fault = fault](int, const Action&) {
      return Outcome{absl::InvalidArgumentError("bad"), fault, {}};
    };
    gang.Order(0, Stage::kPrepare, 0);
    gang.RunUntilQuiet();
    ASSERT_TRUE(gang.rank(0).exit);
    EXPECT_EQ(gang.rank(0).exit->code, code);
    EXPECT_EQ(gang.rank(0).exit->error, "bad");
  }
}

// The coordinator's part: whenever somebody is dead or a generation is broken, restart and form the
// next one.
void RunWithRecovery(FakeGang& gang, int64_t kill_turn, int victim, int& kills) {
  int64_t generation = 1, turns = 0;
  gang.Form(generation);
  while (turns < 5000) {
    if (turns++ == kill_turn && gang.rank(victim).alive()) {
      gang.Kill(victim);
      ++kills;
    }
    if (gang.Turn()) continue;
    for (int i = 0; i < gang.size(); ++i) {  // one verdict is enough: the final manifest is durable
      if (gang.rank(i).alive() && gang.rank(i).core->observed().finished) return;
    }
    for (int i = 0; i < gang.size(); ++i) {
      if (!gang.rank(i).alive()) gang.Restart(i);
    }
    gang.Form(++generation);
  }
}

TEST(TrainerCoreTest, AKillOfEitherRankAtAnyTurnEndsWithTheSameStateAndEveryStepOnce) {
  for (int victim : {0, 1}) {
    int kills = 0;
    for (int64_t turn = 0; turn < 140; ++turn) {
      FakeGang gang(2, Facts(12, 4));
      RunWithRecovery(gang, turn, victim, kills);
      ASSERT_THAT(ManifestSteps(gang), Contains(12)) << "victim " << victim << " turn " << turn;
      for (int rank : {0, 1}) {
        if (!gang.rank(rank).alive()) continue;
        EXPECT_TRUE(gang.rank(rank).core->observed().finished);
        EXPECT_EQ(gang.rank(rank).state, StateAfter(12));
      }
      for (const auto& [id, manifest] : gang.manifests) {
        EXPECT_EQ(manifest.state, StateAfter(manifest.state.step)) << id;
      }
    }
    EXPECT_GT(kills, 50);
  }
}

}  // namespace
}  // namespace vitscale
