// What commits a step, and what closes the gate.

#include <functional>
#include <utility>

#include "tests/worker/trainer/core_fixture.h"

namespace vitscale {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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

}  // namespace
}  // namespace vitscale
