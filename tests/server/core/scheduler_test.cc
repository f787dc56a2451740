#include "server/core/scheduler.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

QueuedJob Job(const char* id, int need, int priority = 0, int64_t number = 1, double share = 0) {
  QueuedJob job;
  job.id = id;
  job.need = need;
  job.priority = priority;
  job.number = number;
  job.share = share;
  return job;
}
SchedulerDevice Device(const char* id, DeviceStatus status, const char* holder = "",
                       const char* numeric_class = "cpu") {
  SchedulerDevice device;
  device.worker_id = id;
  device.status = status;
  device.numeric_class = numeric_class;
  return device;
}
RunningJob Running(const char* id, int priority, std::vector<absl::string_view> workers,
                   int start_seconds = 0) {
  return {id, priority, absl::UnixEpoch() + absl::Seconds(start_seconds), 0, std::move(workers)};
}

SchedulerInput Input() {
  SchedulerInput input;
  input.reservation_after = absl::Minutes(10);
  return input;
}

std::vector<std::string> Victims(const SchedulerOutput& output) {
  std::vector<std::string> victims;
  for (const PreemptionDecision& preemption : output.preemptions)
    victims.push_back(preemption.victim);
  return victims;
}

TEST(SchedulerTest, OrdersByPriorityThenShareThenAge) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kFree)};
  input.queue = {Job("old", 1, 0, 1), Job("urgent", 1, 5, 4, 100)};
  EXPECT_EQ(Schedule(input).placements[0].job_id, "urgent");
  input.queue = {Job("greedy", 1, 0, 1, 50), Job("modest", 1, 0, 2, 1)};
  EXPECT_EQ(Schedule(input).placements[0].job_id, "modest");
  input.queue = {Job("young", 1, 0, 2), Job("old", 1, 0, 1)};
  EXPECT_EQ(Schedule(input).placements[0].job_id, "old");
}

TEST(SchedulerTest, PlacesAWholeGangOfOneNumericClassOrNothing) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kFree, "", "one"),
                   Device("b", DeviceStatus::kFree, "", "two")};
  input.queue = {Job("pair", 2)};
  const SchedulerOutput output = Schedule(input);
  EXPECT_THAT(output.placements, IsEmpty());
  EXPECT_EQ(output.waits[0].code, "not_enough_workers");
}

TEST(SchedulerTest, AJobThatFitsNowhereDoesNotHoldUpTheOthers) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kFree)};
  input.queue = {Job("huge", 9, 5, 1), Job("small", 1, 0, 2)};
  EXPECT_EQ(Schedule(input).placements[0].job_id, "small");
}

TEST(SchedulerTest, SmallJobsFillInBehindABlockedOneUntilItsReservation) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kFree), Device("b", DeviceStatus::kHeld, "r")};
  input.queue = {Job("pair", 2, 0, 1), Job("small", 1, 0, 2)};
  EXPECT_EQ(Schedule(input).placements[0].job_id, "small");
  input.queue[0].waited = absl::Minutes(10);
  const SchedulerOutput output = Schedule(input);
  EXPECT_THAT(output.placements, IsEmpty());
  EXPECT_EQ(output.reserved_for, "pair");
}

TEST(SchedulerTest, PreemptsOnlyStrictlyLowerPriorityLowestAndYoungestFirst) {
  SchedulerInput input = Input();
  for (const char* id : {"a", "b", "c", "d"})
    input.devices.push_back(Device(id, DeviceStatus::kHeld));
  input.running = {Running("equal", 5, {"a"}), Running("old", 1, {"b"}, 1),
                   Running("young", 1, {"c"}, 2), Running("low", 0, {"d"})};
  input.queue = {Job("new", 1, 5)};
  EXPECT_THAT(Victims(Schedule(input)), ElementsAre("low"));
  input.queue[0].need = 2;
  EXPECT_THAT(Victims(Schedule(input)), ElementsAre("low", "young"));
  input.queue[0].need = 4;
  EXPECT_THAT(Victims(Schedule(input)),
              IsEmpty());  // would need its equal too: nobody is stopped in vain
}

TEST(SchedulerTest, ATwicePreemptedJobIsChosenLast) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kHeld), Device("b", DeviceStatus::kHeld)};
  input.running = {Running("tired", 0, {"a"}), Running("fresh", 3, {"b"})};
  input.running[0].recent_preemptions = 2;
  input.queue = {Job("new", 1, 5)};
  EXPECT_THAT(Victims(Schedule(input)), ElementsAre("fresh"));
}

TEST(SchedulerTest, AVictimThatALargerOneMakesSuperfluousIsSpared) {
  SchedulerInput input = Input();
  for (const char* id : {"a", "b", "c"}) input.devices.push_back(Device(id, DeviceStatus::kHeld));
  input.running = {Running("one", 0, {"a"}), Running("two", 1, {"b", "c"})};
  input.queue = {Job("new", 2, 5)};
  EXPECT_THAT(Victims(Schedule(input)), ElementsAre("two"));
}

TEST(SchedulerTest, WhatComesFreeForThePreemptorGoesToNobodyElse) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kFree), Device("b", DeviceStatus::kComing, "victim")};
  input.devices[1].coming_preempted = true;
  input.queue = {Job("preemptor", 2, 5, 2), Job("small", 1, 0, 1)};
  const SchedulerOutput output = Schedule(input);
  EXPECT_THAT(output.placements, IsEmpty());
  EXPECT_THAT(output.preemptions, IsEmpty());  // enough is coming: nobody else is stopped
  EXPECT_EQ(output.reserved_for, "preemptor");
  EXPECT_EQ(output.reserved.size(), 2u);
}

TEST(SchedulerTest, ALostReservedDeviceIsReplacedInTheSameDecision) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kComing, "victim"),
                   Device("b", DeviceStatus::kUnusable, "victim"),
                   Device("c", DeviceStatus::kHeld, "other")};
  input.devices[0].coming_preempted = true;
  input.running = {Running("other", 0, {"c"})};
  input.queue = {Job("preemptor", 2, 5)};
  const SchedulerOutput output = Schedule(input);
  EXPECT_THAT(Victims(output), ElementsAre("other"));
  EXPECT_THAT(output.reserved, testing::UnorderedElementsAre("a", "c"));
}

TEST(SchedulerTest, AvoidsTheSuspectWhileThereAreOthers) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kFree), Device("b", DeviceStatus::kFree)};
  input.queue = {Job("job", 1)};
  input.queue[0].avoid_worker = "a";
  EXPECT_THAT(Schedule(input).placements[0].workers, ElementsAre("b"));
  input.devices.pop_back();
  EXPECT_THAT(Schedule(input).placements[0].workers, ElementsAre("a"));
}

TEST(SchedulerTest, TellsWhyAJobWaitsOnlyWhenThatHasChanged) {
  SchedulerInput input = Input();
  input.queue = {Job("job", 1)};
  EXPECT_EQ(Schedule(input).waits.size(), 1u);
  input.queue[0].reason = "not_enough_workers";
  EXPECT_THAT(Schedule(input).waits, IsEmpty());
}

TEST(SchedulerTest, ABackingOffJobNeitherRunsNorBlocks) {
  SchedulerInput input = Input();
  input.devices = {Device("a", DeviceStatus::kFree)};
  input.queue = {Job("resting", 1, 9, 1), Job("next", 1, 0, 2)};
  input.queue[0].backoff_left = absl::Seconds(3);
  const SchedulerOutput output = Schedule(input);
  EXPECT_EQ(output.placements[0].job_id, "next");
  EXPECT_EQ(output.waits[0].code, "backing_off");
}

}  // namespace
}  // namespace vitscale
