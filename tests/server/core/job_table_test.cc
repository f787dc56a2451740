#include "server/core/job_table.h"

#include "gtest/gtest.h"

namespace vitscale {
namespace {

std::vector<v1::JobState> States() {
  std::vector<v1::JobState> states;
  for (int i = 1; i <= kJobStates; ++i) states.push_back(static_cast<v1::JobState>(i));
  return states;
}
std::vector<v1::Intent> Intents() {
  std::vector<v1::Intent> intents;
  for (int i = 1; i <= kIntents; ++i) intents.push_back(static_cast<v1::Intent>(i));
  return intents;
}

TEST(JobTableTest, EveryCellKeepsTheRulesThatHoldForAllOfThem) {
  int possible = 0, impossible = 0;
  for (JobEvent event : kAllJobEvents) {
    for (v1::JobState state : States()) {
      for (v1::Intent intent : Intents()) {
        const auto next = NextJobState(event, state, intent);
        SCOPED_TRACE(std::string(JobEventName(event)) + " " + JobStateName(state) + " " +
                     IntentName(intent));
        if (!next.has_value()) {
          ++impossible;
          continue;
        }
        ++possible;
        // The end is the end.
        if (IsTerminal(state)) EXPECT_EQ(*next, state);
        // Only a placement makes a waiting job hold workers.
        if (!IsActive(state) && IsActive(*next)) EXPECT_EQ(event, JobEvent::kPlaced);
        // Nothing but an observation of training makes a job RUNNING.
        if (*next == v1::JOB_STATE_RUNNING && state != v1::JOB_STATE_RUNNING) {
          EXPECT_EQ(event, JobEvent::kTraining);
        }
        // A job that somebody wants to stop is not active but STOPPING.
        if (intent != v1::INTENT_RUN && IsActive(*next)) EXPECT_EQ(*next, v1::JOB_STATE_STOPPING);
        if (*next == v1::JOB_STATE_SUCCEEDED && state != *next)
          EXPECT_EQ(event, JobEvent::kFinished);
        if (*next == v1::JOB_STATE_FAILED && state != *next) EXPECT_EQ(event, JobEvent::kFailed);
        if (*next == v1::JOB_STATE_CANCELLED) {
          EXPECT_TRUE(intent == v1::INTENT_CANCEL || intent == v1::INTENT_KILL || state == *next);
        }
        if (*next == v1::JOB_STATE_PAUSED) EXPECT_EQ(intent, v1::INTENT_PAUSE);
      }
    }
  }
  EXPECT_EQ(possible + impossible, kJobEvents * kJobStates * kIntents);
  EXPECT_EQ(possible, 141);  // a changed cell is a changed design: look at it
}

TEST(JobTableTest, StoppingEndsByTheIntentAtItsEnd) {
  const auto end = [](v1::Intent intent) {
    return *NextJobState(JobEvent::kLeft, v1::JOB_STATE_STOPPING, intent);
  };
  EXPECT_EQ(end(v1::INTENT_RUN), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(end(v1::INTENT_PREEMPT), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(end(v1::INTENT_DRAIN), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(end(v1::INTENT_PAUSE), v1::JOB_STATE_PAUSED);
  EXPECT_EQ(end(v1::INTENT_CANCEL), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(end(v1::INTENT_KILL), v1::JOB_STATE_CANCELLED);
}

TEST(JobTableTest, AFinishedAttemptBeatsEveryIntent) {
  for (v1::JobState state : States()) {
    if (state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED) continue;
    for (v1::Intent intent : Intents()) {
      EXPECT_EQ(NextJobState(JobEvent::kFinished, state, intent), v1::JOB_STATE_SUCCEEDED);
    }
  }
}

TEST(JobTableTest, AGreaterIntentReplacesALesserAndResumeTakesAPauseBack) {
  for (v1::Intent current : Intents()) {
    for (v1::Intent wanted : Intents()) {
      const IntentChange change = CompareIntent(v1::JOB_STATE_RUNNING, current, wanted);
      if (wanted > current) EXPECT_EQ(change, IntentChange::kChange);
      if (wanted == current) EXPECT_EQ(change, IntentChange::kNone);
      if (wanted < current && wanted != v1::INTENT_RUN) EXPECT_EQ(change, IntentChange::kRefused);
    }
  }
  EXPECT_EQ(CompareIntent(v1::JOB_STATE_STOPPING, v1::INTENT_PAUSE, v1::INTENT_RUN),
            IntentChange::kChange);
  EXPECT_EQ(CompareIntent(v1::JOB_STATE_STOPPING, v1::INTENT_CANCEL, v1::INTENT_RUN),
            IntentChange::kRefused);
  EXPECT_EQ(CompareIntent(v1::JOB_STATE_CANCELLED, v1::INTENT_CANCEL, v1::INTENT_CANCEL),
            IntentChange::kNone);
  EXPECT_EQ(CompareIntent(v1::JOB_STATE_SUCCEEDED, v1::INTENT_RUN, v1::INTENT_CANCEL),
            IntentChange::kRefused);
}

}  // namespace
}  // namespace vitscale
