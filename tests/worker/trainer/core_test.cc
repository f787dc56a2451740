#include "worker/trainer/core/core.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/fake_gang.h"

namespace vitscale {
namespace {

using link::Stage;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

RunFacts Facts(int64_t total = 12, int64_t checkpoint_every = 4) {
  RunFacts facts;
  facts.total_steps = total;
  facts.batch_global = 8;
  facts.checkpoint_every = checkpoint_every;
  facts.plan_hash = 77;
  facts.job_hash = 88;
  facts.data_address = "127.0.0.1:1";
  return facts;
}

FakeState StateAfter(int64_t steps) {
  FakeState state;
  for (int64_t step = 1; step <= steps; ++step) state = {step, NextDigest(state.digest, step)};
  return state;
}

template <typename T>
std::vector<T> RecordsOf(const FakeGang::Rank& rank) {
  std::vector<T> found;
  for (const link::SpooledRecord& record : rank.records) {
    if (const T* value = std::get_if<T>(&record.record)) found.push_back(*value);
  }
  return found;
}

std::vector<int64_t> StepsEmitted(const FakeGang::Rank& rank) {
  std::vector<int64_t> steps;
  for (const link::StepRecord& record : RecordsOf<link::StepRecord>(rank))
    steps.push_back(record.step);
  return steps;
}

std::vector<int64_t> UpTo(int64_t last) {
  std::vector<int64_t> steps;
  for (int64_t step = 1; step <= last; ++step) steps.push_back(step);
  return steps;
}

std::vector<int64_t> ManifestSteps(const FakeGang& gang) {
  std::vector<int64_t> steps;
  for (const auto& [id, manifest] : gang.manifests) steps.push_back(manifest.state.step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

bool InOperation(FakeGang& gang, int rank, size_t index) {
  return gang.rank(rank).alive() && gang.rank(rank).operation &&
         gang.rank(rank).operation->index() == index;
}
constexpr size_t kStepIndex = 3, kApplyIndex = 6;

// ---- the plain run ----

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

// ---- commit and gate ----

TEST(TrainerCoreTest, AStepIsCommittedByTheExchangeOfTheNextOne) {
  FakeGang gang(2, Facts());
  gang.Form(1);
  ASSERT_TRUE(gang.RunUntil(
      [&] { return gang.rank(0).core->observed().step == 3 && InOperation(gang, 0, kStepIndex); }));
  EXPECT_EQ(gang.rank(0).core->observed().committed_step, 2);
  EXPECT_EQ(StepsEmitted(gang.rank(0)), UpTo(2));
  ASSERT_TRUE(gang.RunUntil([&] { return InOperation(gang, 0, kApplyIndex); }));
  EXPECT_EQ(gang.rank(0).core->observed().committed_step, 3);
  EXPECT_EQ(StepsEmitted(gang.rank(0)), UpTo(3));
}

TEST(TrainerCoreTest, ARankThatFailsAnywhereBetweenBucketAndGateAppliesNothing) {
  for (int victim : {0, 1}) {
    for (int64_t step = 1; step <= 9; ++step) {
      FakeGang gang(2, Facts());
      gang.fail = [&](int rank, const Action& action) {
        const auto* op = std::get_if<StepOp>(&action);
        if (op == nullptr || rank != victim || op->record.step != step) return Outcome{};
        return Outcome{absl::UnavailableError("bucket 1"), Fault::kCollective, {1 - rank}};
      };
      gang.Form(1);
      gang.RunUntilQuiet();
      for (int rank : {0, 1}) {
        const auto& observed = gang.rank(rank).core->observed();
        EXPECT_TRUE(observed.collective_failed);
        EXPECT_EQ(observed.step, step - 1);
        EXPECT_EQ(gang.rank(rank).state, StateAfter(step - 1)) << "victim " << victim;
        EXPECT_EQ(gang.rank(rank).log.back(), "Drop");
      }
    }
  }
}

TEST(TrainerCoreTest, ARecordThatDisagreesInAnyWayClosesTheGate) {
  const std::vector<std::pair<std::string, std::function<void(ControlRecord&)>>> kFalsifiers = {
      {"layout", [](ControlRecord& r) { r.version = 2; }},
      {"rank", [](ControlRecord& r) { r.rank = 0; }},
      {"world size", [](ControlRecord& r) { r.world_size = 3; }},
      {"another job", [](ControlRecord& r) { r.job_hash ^= 1; }},
      {"attempt", [](ControlRecord& r) { ++r.attempt; }},
      {"generation", [](ControlRecord& r) { --r.generation; }},
      {"step", [](ControlRecord& r) { ++r.step; }},
      {"plan", [](ControlRecord& r) { r.plan_hash ^= 1; }},
      {"closes", [](ControlRecord& r) { r.set(RecordFlag::kClosing); }},
      {"digest", [](ControlRecord& r) { r.set(RecordFlag::kHasDigest); }},
      {"images", [](ControlRecord& r) { --r.images; }},
  };
  for (const auto& [what, falsify] : kFalsifiers) {
    FakeGang gang(2, Facts());
    gang.falsify = [&, falsify = falsify](int rank, ControlRecord& record) {
      if (rank == 1 && record.step == 3) falsify(record);
    };
    gang.Form(1);
    gang.RunUntilQuiet();
    for (int rank : {0, 1}) {
      EXPECT_EQ(gang.rank(rank).state, StateAfter(2)) << what;
      EXPECT_TRUE(gang.rank(rank).core->observed().collective_failed) << what;
    }
    EXPECT_THAT(gang.rank(0).core->observed().error, HasSubstr(what));
  }
}

TEST(TrainerCoreTest, ADigestThatDiffersLeavesNobodyTrusted) {
  FakeGang gang(3, Facts(12, 4));
  gang.falsify = [](int rank, ControlRecord& record) {
    if (rank == 2 && record.step == 5) record.digest ^= 1;  // the digest of step 4
  };
  gang.Form(1);
  gang.RunUntilQuiet();
  for (int rank : {0, 1, 2}) {
    const auto& observed = gang.rank(rank).core->observed();
    EXPECT_FALSE(observed.version.has_value());
    EXPECT_THAT(observed.suspects, ElementsAre(2));
    EXPECT_THAT(observed.error, HasSubstr("digest of step 4 differs on rank 2"));
  }
  EXPECT_THAT(gang.manifests, IsEmpty()) << "the digest is compared before the snapshot";
}

TEST(GateTest, WithoutAMajorityEveryRankIsInTheMinority) {
  std::vector<ControlRecord> records(2);
  for (ControlRecord& record : records) record.set(RecordFlag::kHasDigest);
  records[1].digest = 1;
  EXPECT_THAT(DigestMinority(records), ElementsAre(0, 1));
}

TEST(GateTest, VersionsAreComparedWhole) {
  const link::StateVersion base{3, 100, 0xabc, 1};
  const auto differs = [&](auto edit) {
    link::StateVersion other = base;
    edit(other);
    return CheckVersions({base, base, other});
  };
  EXPECT_THAT(CheckVersions({base, base}), IsOk());
  EXPECT_THAT(differs([](auto& v) { v.digest = 0xabd; }),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("rank 2 holds step 100 digest abd")));
  EXPECT_FALSE(differs([](auto& v) { ++v.established_generation; }).ok());
  EXPECT_FALSE(differs([](auto& v) { ++v.step; }).ok());
  EXPECT_FALSE(differs([](auto& v) { ++v.lineage; }).ok());
}

// ---- votes ----

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

// ---- checkpoints ----

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

// ---- promise and fence ----

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

// ---- divergence ----

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

// ---- orphans, history, goodput ----

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

// ---- a kill at every turn ----

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
