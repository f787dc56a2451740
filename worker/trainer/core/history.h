// The last step records of this rank. Every rank keeps them, so that whoever reports next can hand
// in what a dead reporter had not.

#ifndef WORKER_TRAINER_CORE_HISTORY_H_
#define WORKER_TRAINER_CORE_HISTORY_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "worker/link/messages.h"

namespace vitscale {

class StepHistory {
 public:
  static constexpr size_t kRecordsMax = 1000;

  // The newest step; becomes final with Commit, and is forgotten by RollBackTo if it never does.
  void Add(link::StepRecord record, bool handed_in) {
    if (records_.size() == kRecordsMax) records_.pop_front();
    records_.push_back({std::move(record), handed_in});
  }
  // The state went back to `step`: what came later never happened.
  void RollBackTo(int64_t step) {
    while (!records_.empty() && records_.back().record.step > step) records_.pop_back();
  }
  // Records that this rank did not hand in itself, oldest first; from now on they count as handed
  // in.
  std::vector<link::StepRecord> TakeMissing() {
    std::vector<link::StepRecord> missing;
    for (Entry& entry : records_) {
      if (!entry.handed_in) missing.push_back(entry.record);
      entry.handed_in = true;
    }
    return missing;
  }
  size_t size() const { return records_.size(); }

 private:
  struct Entry {
    link::StepRecord record;
    bool handed_in = false;
  };
  std::deque<Entry> records_;
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_CORE_HISTORY_H_
