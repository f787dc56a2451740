// The job machine as data: (event, state, intent) -> state, for every cell, the impossible ones
// included.
//
// State is written from observations only; intent is what users and the scheduler want. An event is
// looked up with the intent in force *after* the event (kIntent: the new one).

#ifndef SERVER_CORE_JOB_TABLE_H_
#define SERVER_CORE_JOB_TABLE_H_

#include <array>
#include <optional>
#include <string>

#include "vitscale/v1/job.pb.h"

namespace vitscale {

// What can happen to a job.
enum class JobEvent {
  kPlaced,    // the scheduler gave it a gang
  kTraining,  // a member of its generation trains
  kBroken,    // its generation broke; the next one forms
  kIntent,    // its intent changed
  kGivenUp,   // the coordinator ends the attempt: deadline, below min, no progress inside it
  kLeft,      // every member has left its device, or owns it no more
  kFinished,  // all steps done, final checkpoint durable
  kFailed,    // an error that is not retried
};
inline constexpr int kJobEvents = 8;
inline constexpr int kJobStates = 9;  // QUEUED … CANCELLED
inline constexpr int kIntents = 6;    // RUN … KILL

inline constexpr std::array<JobEvent, kJobEvents> kAllJobEvents = {
    JobEvent::kPlaced,  JobEvent::kTraining, JobEvent::kBroken,   JobEvent::kIntent,
    JobEvent::kGivenUp, JobEvent::kLeft,     JobEvent::kFinished, JobEvent::kFailed};

const char* JobEventName(JobEvent event);
// "QUEUED", "preempt": as users read them.
std::string JobStateName(v1::JobState state);
std::string IntentName(v1::Intent intent);

// The next state, the same state included; nullopt where the cell is impossible.
std::optional<v1::JobState> NextJobState(JobEvent event, v1::JobState state, v1::Intent intent);

bool IsTerminal(v1::JobState state);
// STARTING, RUNNING, RECOVERING, STOPPING: the job holds workers.
bool IsActive(v1::JobState state);

// Whether `wanted` may replace `current` in `state`, as a status for users: a greater intent
// replaces a lesser; run (resume) replaces pause; an equal one is OK and changes nothing.
enum class IntentChange { kChange, kNone, kRefused };
IntentChange CompareIntent(v1::JobState state, v1::Intent current, v1::Intent wanted);

}  // namespace vitscale

#endif  // SERVER_CORE_JOB_TABLE_H_
