#include "server/core/job_table.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace vitscale {
namespace {

// States as one letter each, in a row per (event, state); columns are intents.
//   Q queued  S starting  R running  V recovering  T stopping  P paused  D succeeded  F failed  C
//   cancelled . impossible
// Columns: run, preempt, drain, pause, cancel, kill.
constexpr char kStateLetters[] = "QSRVTPDFC";

constexpr const char* kTable[kJobEvents][kJobStates] = {
    // kPlaced: only a queued job that wants to run is placed.
    {"S.....", "......", "......", "......", "......", "......", "......", "......", "......"},
    // kTraining. A raised intent has already moved the job to STOPPING.
    {"......", "R.....", "R.....", "R.....", "TTTTTT", "......", "......", "......", "......"},
    // kBroken. What breaks while starting starts again; what breaks while stopping goes on
    // stopping.
    {"......", "S.....", "V.....", "V.....", "TTTTTT", "......", "......", "......", "......"},
    // kIntent. A queued job has nothing to preempt or drain. The end of a terminal job stays what
    // it is.
    {"QQQPCC", "STTTTT", "RTTTTT", "VTTTTT", "TTTTTT", "Q..PCC", "DDDDDD", "FFFFFF", "CCCCCC"},
    // kGivenUp. In STOPPING a deadline only raises the force that is used; kLeft ends it.
    {"......", "Q.....", "Q.....", "Q.....", "TTTTTT", "......", "......", "......", "......"},
    // kLeft. STOPPING ends by the intent at its end.
    {"......", "Q.....", "Q.....", "Q.....", "QQQPCC", "......", "......", "......", "......"},
    // kFinished beats every intent, and a queue or a pause that was entered before the news came.
    {"DDDDDD", "DDDDDD", "DDDDDD", "DDDDDD", "DDDDDD", "DDDDDD", "DDDDDD", "......", "......"},
    // kFailed. A job that is being ended by a user ends as cancelled. A queued one fails by the
    // no-progress rule.
    {"F.....", "F.....", "F.....", "F.....", "FFFFCC", "......", "......", "......", "......"},
};

std::optional<v1::JobState> FromLetter(char letter) {
  for (int i = 0; i < kJobStates; ++i) {
    if (kStateLetters[i] == letter) return static_cast<v1::JobState>(i + 1);
  }
  return std::nullopt;
}

}  // namespace

const char* JobEventName(JobEvent event) {
  static constexpr const char* kNames[kJobEvents] = {"placed",   "training", "broken",   "intent",
                                                     "given_up", "left",     "finished", "failed"};
  return kNames[static_cast<int>(event)];
}

std::string JobStateName(v1::JobState state) {
  return std::string(absl::StripPrefix(v1::JobState_Name(state), "JOB_STATE_"));
}

std::string IntentName(v1::Intent intent) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::Intent_Name(intent), "INTENT_"));
}

std::optional<v1::JobState> NextJobState(JobEvent event, v1::JobState state, v1::Intent intent) {
  const int row = static_cast<int>(state) - 1;
  const int column = static_cast<int>(intent) - 1;
  if (row < 0 || row >= kJobStates || column < 0 || column >= kIntents) return std::nullopt;
  return FromLetter(kTable[static_cast<int>(event)][row][column]);
}

bool IsTerminal(v1::JobState state) { return state >= v1::JOB_STATE_SUCCEEDED; }

bool IsActive(v1::JobState state) {
  return state >= v1::JOB_STATE_STARTING && state <= v1::JOB_STATE_STOPPING;
}

IntentChange CompareIntent(v1::JobState state, v1::Intent current, v1::Intent wanted) {
  if (IsTerminal(state)) {
    const bool already = state == v1::JOB_STATE_CANCELLED &&
                         (wanted == v1::INTENT_CANCEL || wanted == v1::INTENT_KILL);
    return already ? IntentChange::kNone : IntentChange::kRefused;
  }
  if (wanted == current) return IntentChange::kNone;
  if (wanted == v1::INTENT_RUN) {
    if (current == v1::INTENT_PAUSE) return IntentChange::kChange;
    // Preempted or drained jobs run again by themselves.
    return current < v1::INTENT_PAUSE ? IntentChange::kNone : IntentChange::kRefused;
  }
  return wanted > current ? IntentChange::kChange : IntentChange::kRefused;
}

}  // namespace vitscale
