// Checkpoints: when a manifest is written, and saves that fail.

#include <utility>

#include "tests/worker/trainer/core_fixture.h"

namespace vitscale {
namespace {

using link::Stage;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

TEST(TrainerCoreTest, AManifestIsWrittenOnlyAfterALaterExchangeShowedEveryPartDurable) {
  FakeGang gang(2, Facts(20, 4));
  gang.held_parts = {1};
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.rank(0).core->observed().step == 7; }));
  EXPECT_THAT(gang.durable_parts, Contains(std::make_pair(0, int64_t{4})));
  EXPECT_THAT(gang.rank(0).log, Not(Contains("WriteManifest")));
  gang.held_parts.clear();
  ASSERT_TRUE(gang.RunUntil([&] { return gang.durable_parts.size() == 2; }));
  EXPECT_THAT(gang.rank(0).log, Not(Contains("WriteManifest"))) << "no exchange has shown it yet";
  const int64_t then = gang.rank(0).core->observed().committed_step;
  ASSERT_TRUE(gang.RunUntil([&] { return !gang.manifests.empty(); }));
  EXPECT_GT(gang.rank(0).core->observed().committed_step, then);
  EXPECT_EQ(gang.manifests.begin()->second.state, StateAfter(4));
}

TEST(TrainerCoreTest, ASaveThatComesDueDuringAnotherIsTakenAfterIt) {
  FakeGang gang(2, Facts(20, 4));
  gang.held_parts = {1};
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.rank(0).core->observed().step == 9; }));
  gang.held_parts.clear();
  gang.RunUntilQuiet();
  const std::vector<int64_t> steps = ManifestSteps(gang);
  EXPECT_THAT(steps, Contains(4));
  EXPECT_THAT(steps, Not(Contains(8)));
  EXPECT_TRUE(std::any_of(steps.begin(), steps.end(), [](int64_t s) { return s > 8 && s < 12; }));
}

TEST(TrainerCoreTest, AFailedPartAbandonsTheSaveAndTrainingGoesOn) {
  FakeGang gang(2, Facts(12, 4));
  gang.part_status = [](int rank, int64_t step) {
    return rank == 1 && step == 4 ? absl::ResourceExhaustedError("No space left on device")
                                  : absl::OkStatus();
  };
  gang.Form(1);
  gang.RunUntilQuiet();
  EXPECT_THAT(ManifestSteps(gang), ElementsAre(8, 12));
  const auto events = RecordsOf<link::Event>(gang.rank(1));
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].kind, "checkpoint_failed");
  EXPECT_THAT(events[0].message, HasSubstr("No space left on device"));
  EXPECT_TRUE(gang.rank(0).core->observed().finished);
}

TEST(TrainerCoreTest, ALastCheckpointThatCannotBeSavedIsAnExitNotASuccess) {
  for (const bool manifest : {false, true}) {
    FakeGang gang(2, Facts(6, 100));
    if (manifest) gang.manifest_status = absl::ResourceExhaustedError("full");
    gang.part_status = [manifest](int rank, int64_t) {
      return rank == 1 && !manifest ? absl::ResourceExhaustedError("full") : absl::OkStatus();
    };
    gang.Form(1);
    gang.RunUntilQuiet();
    for (int rank : {0, 1}) {
      EXPECT_FALSE(gang.rank(rank).core->observed().finished);
      ASSERT_TRUE(gang.rank(rank).exit);
      EXPECT_EQ(gang.rank(rank).exit->code, 84);
    }
  }
}

TEST(TrainerCoreTest, AGenerationThatBreaksAbandonsItsSaveAndTheNextOneSavesAtOnce) {
  FakeGang gang(2, Facts(40, 10));
  gang.held_parts = {1};
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil([&] { return gang.rank(0).core->observed().step == 12; }));
  gang.Kill(1);
  gang.RunUntilQuiet();
  EXPECT_THAT(gang.rank(0).log, Contains("AbandonSave"));
  gang.held_parts.clear();
  gang.Restart(1);
  gang.Form(2);
  ASSERT_TRUE(gang.RunUntil([&] { return !gang.manifests.empty(); }));
  EXPECT_EQ(gang.manifests.begin()->first, "job000000000/a0001.g0002.step_000000002");
  gang.RunUntilQuiet();
  EXPECT_THAT(ManifestSteps(gang), ElementsAre(2, 10, 20, 30, 40));
}

TEST(TrainerCoreTest, ADamagedCheckpointIsNotListedAgain) {
  FakeGang gang(1, Facts());
  gang.manifests["job000000000/a0001.g0001.step_000000004"] = {1, StateAfter(4)};
  gang.manifests["job000000000/a0001.g0001.step_000000008"] = {1, StateAfter(8)};
  gang.Order(0, Stage::kForm, 2);
  gang.RunUntilQuiet();
  gang.Order(0, Stage::kGo, 2, [&](auto& desired) { desired.source = gang.NewestSource(); });
  Synchronised bad{{absl::DataLossError("crc"), Fault::kCollective, {}}};
  bad.checkpoint = "job000000000/a0001.g0001.step_000000008";
  bad.checkpoint_bad = true;
  gang.End(0, bad);
  EXPECT_TRUE(gang.rank(0).core->observed().collective_failed);
  gang.Order(0, Stage::kForm, 3);
  gang.RunUntilQuiet();
  ASSERT_THAT(gang.rank(0).core->observed().checkpoints, SizeIs(1));
  EXPECT_EQ(gang.rank(0).core->observed().checkpoints[0].step, 4);
}

}  // namespace
}  // namespace vitscale
