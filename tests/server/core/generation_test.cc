#include "server/core/generation.h"

#include "gmock/gmock.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

v1::CheckpointInfo Info(const std::string& id, int64_t lineage, int64_t step, int64_t attempt,
                        int64_t generation) {
  v1::CheckpointInfo info;
  info.set_id(id);
  info.set_lineage(lineage);
  info.set_step(step);
  info.set_attempt(attempt);
  info.set_generation(generation);
  return info;
}
v1::ObservedState Lists(std::vector<v1::CheckpointInfo> infos) {
  v1::ObservedState observed;
  for (const v1::CheckpointInfo& info : infos) *observed.add_checkpoints() = info;
  return observed;
}

TEST(ChooseSourceTest, TakesTheGreatestLineageThenStepThenAttemptThenGeneration) {
  const v1::ObservedState one =
      Lists({Info("step", 1, 90, 9, 9), Info("lineage", 2, 10, 1, 1), Info("attempt", 2, 10, 2, 1),
             Info("generation", 2, 10, 2, 3)});
  EXPECT_EQ(ChooseSource({&one, &one}, "", 2)->checkpoint(), "generation");
}

TEST(ChooseSourceTest, TakesOnlyWhatEveryMemberCanRead) {
  const v1::ObservedState one = Lists({Info("new", 1, 20, 1, 1), Info("old", 1, 10, 1, 1)});
  const v1::ObservedState two = Lists({Info("old", 1, 10, 1, 1)});
  EXPECT_EQ(ChooseSource({&one, &two}, "new", 1)->checkpoint(), "old");
}

TEST(ChooseSourceTest, NeverStartsAnewWhenThereIsSomethingToLose) {
  const v1::ObservedState none;
  const v1::ObservedState some = Lists({Info("c", 1, 20, 1, 1)});
  EXPECT_TRUE(ChooseSource({&none, &none}, "", 1)->initialise());
  EXPECT_THAT(ChooseSource({&none, &some}, "", 1), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(ChooseSource({&none, &none}, "c", 1),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

class FenceTest : public testing::Test {
 protected:
  FenceTest() {
    fence_.set_attempt(2);
    fence_.set_generation(5);
    for (int i = 0; i < 2; ++i) fence_.add_members()->set_data_address("127.0.0.1:1");
    observed_.set_job_id("job");
    observed_.set_attempt(2);
    observed_.set_promised_generation(5);
    observed_.set_data_address("127.0.0.1:1");
    views_ = {{true, false, false, &observed_}, {true, false, false, nullptr}};
  }
  bool Open() { return FenceOpen("job", fence_, views_); }
  Fence fence_;
  v1::ObservedState observed_;
  std::vector<MemberView> views_;
};

TEST_F(FenceTest, StaysClosedWhileItsMembersMayStillStep) { EXPECT_FALSE(Open()); }
TEST_F(FenceTest, OpensWhenOneMemberHasPromisedAGreaterGeneration) {
  observed_.set_promised_generation(6);
  EXPECT_TRUE(Open());
}
TEST_F(FenceTest, OpensWhenATrainerIsReapedOrReplaced) {
  observed_.set_exited(true);
  EXPECT_TRUE(Open());
  observed_.set_exited(false);
  observed_.set_data_address("127.0.0.1:2");
  EXPECT_TRUE(Open());
}
TEST_F(FenceTest, OpensWhenANewIncarnationHoldsTheDeviceLock) {
  views_[1] = {false, false, false, nullptr};
  EXPECT_FALSE(Open());
  views_[1].device_lock_held = true;
  EXPECT_TRUE(Open());
}
TEST_F(FenceTest, ExpiredOwnershipOpensItOnlyIfItIsThatOfAll) {
  views_[1].ownership_expired = true;
  EXPECT_FALSE(Open());
  views_[0].ownership_expired = true;
  EXPECT_TRUE(Open());
}

TEST(BackoffTest, DoublesFromTheMinimumToTheMaximum) {
  CoreOptions options;
  EXPECT_EQ(Backoff(options, 0), absl::ZeroDuration());
  EXPECT_EQ(Backoff(options, 1), absl::Seconds(10));
  EXPECT_EQ(Backoff(options, 3), absl::Seconds(40));
  EXPECT_EQ(Backoff(options, 40), absl::Minutes(10));
}

TEST(NoProgressTest, NeedsThreeDifferentWorkerSetsOrFiveDeathsAtOnePlace) {
  google::protobuf::RepeatedPtrField<AttemptFailure> failures;
  auto add = [&](const std::string& worker, int64_t step, const std::string& error) {
    AttemptFailure& failure = *failures.Add();
    failure.add_workers(worker);
    failure.set_step(step);
    failure.set_error_class(error);
  };
  for (int i = 0; i < 4; ++i) add("a", 7, "device");
  EXPECT_FALSE(NoProgress(failures));
  add("a", 7, "device");
  EXPECT_TRUE(NoProgress(failures));
  add("a", 8, "device");  // it moved
  EXPECT_FALSE(NoProgress(failures));
  add("b", 8, "device");
  EXPECT_FALSE(NoProgress(failures));
  add("c", 8, "device");
  EXPECT_TRUE(NoProgress(failures));
  add("d", 8, "checkpoint_storage");
  EXPECT_FALSE(NoProgress(failures));
}

TEST(CoreOptionsTest, RefusesALeaseOfLessThanThreeHeartbeats) {
  CoreOptions options;
  EXPECT_THAT(options.Check(), IsOk());
  options.lease = absl::Seconds(5);
  EXPECT_THAT(options.Check(),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("lease")));
}

}  // namespace
}  // namespace vitscale
