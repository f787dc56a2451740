// What every rank tells every other once per step, after the last bucket: 128 bytes of integers,
// all-gathered.
//
// The step is applied only if the records of all ranks are there and agree
// (worker/trainer/core/gate.h), so a record names everything that must be equal: job, attempt,
// generation, step, plan. The rest are votes and sums: a rank never learns a global loss or a vote
// in any other way, hence all ranks know the same.
//
// Byte order is that of x86-64; ranks of another order would be of another numeric class and never
// in one gang.

#ifndef WORKER_COLLECTIVE_CONTROL_RECORD_H_
#define WORKER_COLLECTIVE_CONTROL_RECORD_H_

#include <bit>
#include <cstdint>
#include <string>
#include <type_traits>

namespace vitscale {

// Votes and facts, or-ed into ControlRecord::flags.
enum class RecordFlag : uint32_t {
  kStop = 1u << 0,        // vote: leave after the next step
  kCheckpoint = 1u << 1,  // vote: save after the next step
  kRegroup =
      1u
      << 2,  // vote: leave for a new generation after the next step; reserved for elastic training
  kNonFinite = 1u << 3,  // this rank's loss sum is not finite: nobody applies the step
  kClosing =
      1u << 4,  // an exchange without gradients: it commits the step before and carries parts
  kHasDigest = 1u << 5,  // `digest` is that of the state after `step` - 1
};

// How this rank's part of a checkpoint stands.
enum class PartState : uint32_t {
  kNone = 0,  // no save under way
  kWriting = 1,
  kDurable = 2,  // file and directory are fsynced; bytes and crc32c are valid
  kFailed = 3,
  kManifest = 4,  // rank 0 only: its part, and the manifest, are durable
};

struct ControlRecord {
  uint32_t version = 1;   // of this layout
  uint32_t flags = 0;     // RecordFlag
  uint64_t job_hash = 0;  // of the job id
  int64_t attempt = 0;
  int64_t generation = 0;
  int64_t step = 0;  // the step that this exchange completes: 1 for the first
  uint64_t plan_hash = 0;
  int64_t images = 0;          // of this rank in this step
  uint64_t loss_sum_bits = 0;  // of an f64: sum over those images
  int64_t correct = 0;         // images whose first guess was right
  int64_t arrival_micros = 0;  // at the first bucket, since this rank left the exchange before
  int64_t part_step = -1;      // the checkpoint that the part belongs to, by its step; -1: none
  int64_t part_bytes = 0;
  uint32_t part_crc32c = 0;
  uint32_t part_state = 0;  // PartState
  uint64_t digest = 0;      // see kHasDigest
  int32_t rank = 0;
  int32_t world_size = 0;
  uint64_t samples_hash =
      0;  // of the ids of this rank's images, for comparisons across world sizes

  bool has(RecordFlag flag) const { return (flags & static_cast<uint32_t>(flag)) != 0; }
  void set(RecordFlag flag, bool on = true) {
    flags = on ? flags | static_cast<uint32_t>(flag) : flags & ~static_cast<uint32_t>(flag);
  }
  double loss_sum() const { return std::bit_cast<double>(loss_sum_bits); }
  void set_loss_sum(double sum) { loss_sum_bits = std::bit_cast<uint64_t>(sum); }
  PartState part() const { return static_cast<PartState>(part_state); }
  void set_part(PartState state) { part_state = static_cast<uint32_t>(state); }

  bool operator==(const ControlRecord&) const = default;
};
static_assert(sizeof(ControlRecord) == 128, "the record has a fixed size on the wire");
static_assert(std::is_trivially_copyable_v<ControlRecord>,
              "the record is sent as it lies in memory");

// "rank 1 of 2, job 1f…, attempt 3, generation 7, step 12, plan 9a…, stop": for errors and logs.
std::string DebugString(const ControlRecord& record);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_CONTROL_RECORD_H_
