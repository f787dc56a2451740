#include "worker/trainer/engine/faults.h"

#include <signal.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/log.h"

namespace vitscale {
namespace {

constexpr const char* kActions[] = {"kill",         "stop", "fail_collective",
                                    "fail_storage", "nan",  "nan_loss"};
constexpr const char* kPoints[] = {"prepare",         "synchronise",    "step",
                                   "bucket",          "exchange",       "gate",
                                   "applied",         "snapshot",       "checkpoint_part",
                                   "before_manifest", "after_manifest", "evaluate"};
constexpr const char* kNumbers[] = {"step", "bucket", "rank", "generation"};

template <size_t n>
bool Known(const char* const (&names)[n], absl::string_view name) {
  for (const char* known : names) {
    if (name == known) return true;
  }
  return false;
}

}  // namespace

absl::Status Faults::Parse(absl::string_view text) {
  absl::MutexLock lock(&mutex_);
  for (absl::string_view one : absl::StrSplit(text, ';', absl::SkipEmpty())) {
    const auto bad = [one](absl::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat("fault '", one, "': ", why));
    };
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(one, absl::MaxSplits('@', 1));
    Fault fault{std::string(parts.first), "", {}, false};
    if (!Known(kActions, fault.action)) return bad("unknown action");
    for (absl::string_view condition : absl::StrSplit(parts.second, ',', absl::SkipEmpty())) {
      const std::pair<absl::string_view, absl::string_view> pair =
          absl::StrSplit(condition, absl::MaxSplits('=', 1));
      int64_t value = 0;
      if (pair.second.empty() && Known(kPoints, condition)) {
        fault.point = std::string(condition);
      } else if (Known(kNumbers, pair.first) && absl::SimpleAtoi(pair.second, &value)) {
        fault.conditions[std::string(pair.first)] = value;
      } else {
        return bad(absl::StrCat("unknown condition '", condition, "'"));
      }
    }
    if (fault.point.empty()) {
      fault.point = fault.conditions.contains("bucket") ? "bucket"
                    : fault.action == "fail_collective" ? "exchange"
                                                        : "step";
    }
    faults_.push_back(std::move(fault));
  }
  return absl::OkStatus();
}

bool Faults::Matches(const Fault& fault, absl::string_view point, const Place& place) {
  if (fault.done || fault.point != point) return false;
  for (const auto& [name, value] : fault.conditions) {
    const int64_t is = name == "step"     ? place.step
                       : name == "bucket" ? place.bucket
                       : name == "rank"   ? place.rank
                                          : place.generation;
    if (is != value) return false;
  }
  return true;
}

bool Faults::At(absl::string_view point, const Place& place, absl::string_view action) {
  absl::MutexLock lock(&mutex_);
  for (Fault& fault : faults_) {
    if (!Matches(fault, point, place)) continue;
    const bool signal = fault.action == "kill" || fault.action == "stop";
    if (!signal && fault.action != action) continue;
    fault.done = true;
    VITSCALE_LOG(WARNING) << "injected fault: " << fault.action << " at " << point << ", step "
                          << place.step;
    if (!signal) return true;
    ::kill(getpid(), fault.action == "kill" ? SIGKILL : SIGSTOP);
  }
  return false;
}

}  // namespace vitscale
