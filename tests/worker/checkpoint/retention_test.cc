#include "worker/checkpoint/retention.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr char kJob[] = "job";
const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);

CheckpointEntry Valid(int64_t generation, int64_t step, int64_t lineage = 1,
                      bool abandoned = false) {
  CheckpointEntry entry;
  entry.manifest.name = {1, generation, step, false};
  entry.manifest.lineage = lineage;
  entry.id = CheckpointId(kJob, entry.manifest.name);
  entry.abandoned = abandoned;
  return entry;
}

IncompleteEntry Incomplete(int64_t generation, int64_t step, absl::Duration age,
                           bool has_manifest = false) {
  return {{1, generation, step, false}, "", "", has_manifest, kNow - age};
}

RetentionRequest Keep(int last, int64_t every = 0) {
  RetentionRequest request;
  request.attempt = 1;
  request.generation = 5;
  request.keep_last = last;
  request.keep_every_steps = every;
  request.now = kNow;
  return request;
}

std::vector<int64_t> Removed(const CheckpointListing& listing, const RetentionRequest& request) {
  std::vector<int64_t> steps;
  for (const CheckpointName& name : ChooseRemovals(listing, request, kJob))
    steps.push_back(name.step);
  return steps;
}

// Newest first, as List() gives them.
const CheckpointListing kFive = {
    {Valid(5, 500), Valid(4, 400), Valid(3, 300), Valid(2, 200), Valid(1, 100)}, {}, {}};

TEST(ChooseRemovalsTest, KeepsTheLastOnesAndRemovesOldestFirst) {
  EXPECT_THAT(Removed(kFive, Keep(2)), ElementsAre(100, 200, 300));
  EXPECT_THAT(Removed(kFive, Keep(5)), IsEmpty());
}

TEST(ChooseRemovalsTest, KeepsEverySoManySteps) {
  EXPECT_THAT(Removed(kFive, Keep(1, 200)), ElementsAre(100, 300));
}

TEST(ChooseRemovalsTest, NeverTouchesAGreaterAttemptOrGeneration) {
  RetentionRequest request = Keep(1);
  request.generation = 2;
  EXPECT_THAT(Removed(kFive, request), ElementsAre(100, 200));
  request.attempt = 0;
  EXPECT_THAT(Removed(kFive, request), IsEmpty());
}

TEST(ChooseRemovalsTest, NeverTouchesAPinnedOneOrOneInUse) {
  RetentionRequest request = Keep(1);
  request.pinned = {kFive.valid[4].id};
  request.in_use = {kFive.valid[2].id};
  EXPECT_THAT(Removed(kFive, request), ElementsAre(200, 400));
}

TEST(ChooseRemovalsTest, NeverTouchesTheOnlyValidOne) {
  EXPECT_THAT(Removed({{Valid(1, 100)}, {}, {}}, Keep(0)), IsEmpty());
  // All abandoned and nothing in their place yet: they are all there is.
  EXPECT_THAT(Removed({{Valid(2, 200, 1, true), Valid(1, 100, 1, true)}, {}, {}}, Keep(1)),
              IsEmpty());
}

TEST(ChooseRemovalsTest, NeverTouchesAYoungOneWithoutManifest) {
  CheckpointListing listing;
  listing.incomplete = {Incomplete(5, 600, absl::Minutes(9)), Incomplete(4, 500, absl::Minutes(11)),
                        Incomplete(6, 400, absl::Minutes(11)),
                        Incomplete(3, 300, absl::Hours(1), true)};
  EXPECT_THAT(Removed(listing, Keep(1)), ElementsAre(500));
}

TEST(ChooseRemovalsTest, AbandonedOnesGoOnceTheNewLineHasACheckpoint) {
  CheckpointListing listing;
  listing.valid = {Valid(4, 300, 2), Valid(3, 400, 1, true), Valid(2, 200, 1)};
  EXPECT_THAT(Removed(listing, Keep(3)), ElementsAre(400));
  listing.valid = {Valid(3, 400, 1, true), Valid(2, 200, 1)};
  EXPECT_THAT(Removed(listing, Keep(3)), IsEmpty());
}

TEST(IsAbandonedTest, WhatIsOlderThanTheParentStays) {
  const std::vector<LineageTombstone> tombstones = {{2, 200, "", {}}, {3, 250, "", {}}};
  EXPECT_FALSE(IsAbandoned(Valid(1, 200, 1).manifest, tombstones));
  EXPECT_TRUE(IsAbandoned(Valid(1, 201, 1).manifest, tombstones));
  EXPECT_FALSE(IsAbandoned(Valid(1, 250, 2).manifest, tombstones));
  EXPECT_TRUE(IsAbandoned(Valid(1, 300, 2).manifest, tombstones));
  EXPECT_FALSE(IsAbandoned(Valid(1, 300, 3).manifest, tombstones));
}

}  // namespace
}  // namespace vitscale
