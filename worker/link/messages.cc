#include "worker/link/messages.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace vitscale::link {
namespace {

absl::string_view ExitMeaning(int exit_code) {
  switch (static_cast<TrainerExit>(exit_code)) {
    case TrainerExit::kDone:
      return "done";
    case TrainerExit::kPreemptedSaved:
      return "preempted, checkpoint durable";
    case TrainerExit::kPreemptedUnsaved:
      return "preempted, no checkpoint";
    case TrainerExit::kConfiguration:
      return "bad configuration";
    case TrainerExit::kData:
      return "bad data";
    case TrainerExit::kNonFinite:
      return "non-finite";
    case TrainerExit::kCollective:
      return "collective failed or a rank was lost";
    case TrainerExit::kDevice:
      return "device failed";
    case TrainerExit::kStorage:
      return "checkpoint storage failed";
    case TrainerExit::kFenced:
      return "fenced";
    case TrainerExit::kNoProgress:
      return "no progress";
  }
  return "";
}

}  // namespace

std::string DescribeExit(int exit_code) {
  if (const absl::string_view meaning = ExitMeaning(exit_code); !meaning.empty()) {
    return absl::StrCat(meaning, " (exit code ", exit_code, ")");
  }
  if (exit_code > 128) {
    const char* name = sigabbrev_np(exit_code - 128);
    if (name != nullptr) return absl::StrCat("killed by SIG", name, " (", exit_code, ")");
  }
  return absl::StrCat("exit code ", exit_code);
}

absl::string_view StageName(Stage stage) {
  switch (stage) {
    case Stage::kUnspecified:
      return "unspecified";
    case Stage::kIdle:
      return "idle";
    case Stage::kPrepare:
      return "prepare";
    case Stage::kForm:
      return "form";
    case Stage::kGo:
      return "go";
    case Stage::kExit:
      return "exit";
  }
  return "unknown";
}

absl::string_view IntentName(Intent intent) {
  switch (intent) {
    case Intent::kUnspecified:
      return "unspecified";
    case Intent::kRun:
      return "run";
    case Intent::kPreempt:
      return "preempt";
    case Intent::kDrain:
      return "drain";
    case Intent::kPause:
      return "pause";
    case Intent::kCancel:
      return "cancel";
    case Intent::kKill:
      return "kill";
  }
  return "unknown";
}

}  // namespace vitscale::link
