// One checkpoint save, as all ranks of a generation know it, and this rank's share of it.
//
//   idle -> due (after the step) -> writing (digest agreed, snapshot taken) -> idle, once an
//   exchange shows every part durable or some part failed. The lowest rank then writes the
//   manifest; in a closing the others wait for that too.
//
// What is shared (`phase`, `step`) changes only by exchanged records, so all ranks change it in the
// same step.

#ifndef WORKER_TRAINER_CORE_SAVE_H_
#define WORKER_TRAINER_CORE_SAVE_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "worker/collective/control_record.h"
#include "worker/trainer/core/events.h"

namespace vitscale {

class SaveTracker {
 public:
  enum class Phase { kIdle, kDue, kWriting };
  enum class Verdict { kNone, kAllDurable, kFailed };

  Phase phase() const { return phase_; }
  int64_t step() const { return step_; }
  PartState own_part() const { return own_; }

  // A save of the state after `step` is to be taken. Only when idle.
  void MakeDue(int64_t step) {
    phase_ = Phase::kDue;
    step_ = step;
    own_ = PartState::kNone;
  }
  void StartWriting() {
    phase_ = Phase::kWriting;
    own_ = PartState::kWriting;
  }
  // This rank's part is durable, or failed.
  void PartDone(const PartWritten& part) {
    if (phase_ != Phase::kWriting || part.step != step_) return;
    own_ = part.status.ok() ? PartState::kDurable : PartState::kFailed;
    bytes_ = part.bytes;
    crc32c_ = part.crc32c;
  }
  // What the next record says about it.
  void Describe(ControlRecord& record) const {
    if (phase_ != Phase::kWriting) return;
    record.part_step = step_;
    record.set_part(own_);
    record.part_bytes = bytes_;
    record.part_crc32c = crc32c_;
  }
  // What the records of all ranks say about the save under way.
  Verdict Judge(absl::Span<const ControlRecord> records) const {
    if (phase_ != Phase::kWriting) return Verdict::kNone;
    bool all_durable = true;
    for (const ControlRecord& record : records) {
      if (record.part_step != step_) return Verdict::kNone;
      if (record.part() == PartState::kFailed) return Verdict::kFailed;
      all_durable &= record.part() == PartState::kDurable;
    }
    return all_durable ? Verdict::kAllDurable : Verdict::kNone;
  }
  void Reset() {
    phase_ = Phase::kIdle;
    own_ = PartState::kNone;
  }

 private:
  Phase phase_ = Phase::kIdle;
  int64_t step_ = -1;
  PartState own_ = PartState::kNone;
  int64_t bytes_ = 0;
  uint32_t crc32c_ = 0;
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_CORE_SAVE_H_
