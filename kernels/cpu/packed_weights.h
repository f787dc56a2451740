// The compute copies of weights: every Linear and LinearGradInput asks for one when it is prepared
// and reads it when it runs; PrepareWeights makes them anew from the f32 parameters. They belong to
// the backend, so that a program that updates parameters and another that uses them share them.
//
// A weight is known by the memory of its parts. Slabs of kSlabRows of its rows are packed into all
// its copies at once, straight from the f32 parameters, which are read once; an optimizer that
// comes right before PrepareWeights packs the rows that it has just written. Where oneDNN keeps its
// layout to itself, or a part begins in the middle of a unit, a copy is made from a blob [in, sum
// of out] in the compute dtype instead. A copy that was never made is made before the first run
// that needs it.

#ifndef KERNELS_CPU_PACKED_WEIGHTS_H_
#define KERNELS_CPU_PACKED_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/memory.h"

namespace vitscale::cpu {

// A weight bound to memory.
struct WeightKey {
  std::vector<const float*> parts;  // [in, outs[i]] each
  std::vector<int64_t> outs;
  int64_t in = 0;
  int64_t out() const;
  bool operator<(const WeightKey& other) const;
};
WeightKey BindWeight(const WeightParts& parts, const CpuOpBuilder& builder);

struct PackedPiece;

// One weight in one format. Where it lies is known when a program runs.
struct PackedCopy {
  WeightFormat format;
  PackedLayout layout;            // without edges: made from a blob
  const Memory* block = nullptr;  // where it lies, with others
  int64_t offset = 0;
  int64_t bytes = 0;
  bool made = false;
  std::byte* data() const { return block->data() + offset; }
};

class PackedWeights {
 public:
  // `per_use`: nothing is kept. The weights that a step of a program reads (a panel group, or an op
  // outside of one) are packed when it begins, into a buffer as large as the largest step needs.
  PackedWeights(Isa isa, bool per_use) : isa_(isa), per_use_(per_use) {}

  // The packed copy in `format`; lives as long as this and is filled before it is read.
  absl::StatusOr<const PackedCopy*> Get(const WeightKey& key, const WeightFormat& format);

  // Per use: what packs the weights that Get is asked for until the next call; runs before their
  // readers. Null when copies persist.
  std::unique_ptr<CpuOp> BeginUses();

  // Makes rows [slab, slab + 1) * kSlabRows of all copies of one weight anew, if it has any that
  // persist. `scratch` has BlobBytes(key). Several threads may pack different slabs.
  static constexpr int64_t kSlabRows = 64;
  static int64_t Slabs(const WeightKey& key) { return (key.in + kSlabRows - 1) / kSlabRows; }
  void Pack(const WeightKey& key, int64_t slab, std::byte* scratch) const;
  static int64_t BlobBytes(const WeightKey& key);

  // Makes rows [row, row + rows) of one part anew in all copies that are packed by rows. `row` is a
  // multiple of kRowGrain; `rows` too, unless they are the last.
  static constexpr int64_t kRowGrain = 2;
  void PackRows(const WeightKey& key, size_t part, int64_t row, int64_t rows) const;
  // Makes the copies anew that are not packed by rows.
  void PackBlobs(const WeightKey& key, std::byte* scratch) const;

  // Of all copies, or of the buffer.
  int64_t bytes() const { return per_use_ ? shared_bytes_ : bytes_; }
  // The blob of the largest weight that BeginUses' ops pack from one.
  int64_t use_blob_bytes() const { return use_blob_bytes_; }

  // Makes the copies that were never made, and room for those that are made before each use.
  absl::Status PackNew();

 private:
  class UsesOp;
  using Copies = std::vector<std::unique_ptr<PackedCopy>>;

  absl::Status Place(PackedCopy& copy);
  const Copies& CopiesOf(const WeightKey& key) const;
  static PackedCopy* Find(const Copies& copies, const WeightFormat& format);
  std::unique_ptr<PackedCopy> NewCopy(const WeightKey& key, const WeightFormat& format) const;
  void PackCopies(const WeightKey& key, const Copies& copies, int64_t slab, bool only_new,
                  std::byte* scratch) const;
  void PackPart(const WeightKey& key, size_t part, int64_t row, int64_t rows,
                const std::vector<const PackedCopy*>& copies) const;
  void PackPiece(const PackedPiece& piece, const PackedCopy& copy) const;
  void PackFromBlob(const WeightKey& key, const PackedCopy& copy, std::byte* scratch) const;
  bool streams() const { return !per_use_ && bytes_ > kStreamBytes; }

  // More than this will not be in a cache when it is read, and pushes out what would.
  static constexpr int64_t kStreamBytes = int64_t{16} << 20;
  // Copies share large blocks: the system has huge pages for those only.
  static constexpr int64_t kBlockBytes = int64_t{32} << 20;

  const Isa isa_;
  const bool per_use_;
  std::map<WeightKey, Copies> weights_;  // those that persist
  std::deque<Memory> blocks_;
  int64_t block_used_ = 0;  // of the last
  int64_t bytes_ = 0;
  bool any_new_ = false;

  UsesOp* uses_ = nullptr;  // of the step that is being bound; its program owns it
  Memory shared_;
  int64_t shared_bytes_ = 0, use_blob_bytes_ = 0;
};

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_PACKED_WEIGHTS_H_
