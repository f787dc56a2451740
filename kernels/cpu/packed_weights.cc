#include "kernels/cpu/packed_weights.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "kernels/base/status.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/weight_pack.h"

namespace vitscale::cpu {

// Rows and columns of a weight, [in, sum of out].
struct PackedPiece {
  const float* source = nullptr;
  int64_t stride = 0;
  int64_t row = 0, rows = 0, column = 0, columns = 0;
};

namespace {

// Rows that go together into the copy for y = x W: as many rows as a processor follows, in runs of
// a column block each, written in runs of whole lines.
constexpr int64_t kRowsTogether = 8;

// The parts side by side, rounded to bf16 or as they are.
void FillBlob(const WeightKey& key, bool bf16, const ElementwiseKernels& kernels, std::byte* blob) {
  const int64_t out = key.out();
  int64_t column = 0;
  for (size_t i = 0; i < key.parts.size(); column += key.outs[i], ++i) {
    for (int64_t row = 0; row < key.in; ++row) {
      const float* from = key.parts[i] + row * key.outs[i];
      const int64_t to = row * out + column;
      if (bf16) {
        kernels.to_bf16(from, reinterpret_cast<Bf16*>(blob) + to, key.outs[i]);
      } else {
        std::memcpy(reinterpret_cast<float*>(blob) + to, from, key.outs[i] * sizeof(float));
      }
    }
  }
}

// Units of 32 bits per element of k, see tile.h.
int64_t PerUnit(const WeightFormat& format, Isa isa) {
  return TileKernelsFor(isa, format.bf16).units_per_lane;
}

// Calls pack(rectangle) for each column block that the packed operand's columns [column, +columns)
// touch; source and k are the caller's.
template <typename Pack>
void ForBlocks(const PackedLayout& layout, int64_t column, int64_t columns, const Pack& pack) {
  auto edge = std::upper_bound(layout.edges.begin(), layout.edges.end(), column);
  for (int64_t at = column; at < column + columns; at = *edge, ++edge) {
    const int64_t begin = *(edge - 1), width = *edge - begin;
    pack(at, std::min(*edge, column + columns) - at, begin, width);
  }
}

}  // namespace

int64_t WeightKey::out() const {
  int64_t sum = 0;
  for (int64_t width : outs) sum += width;
  return sum;
}

bool WeightKey::operator<(const WeightKey& other) const {
  return std::tie(parts, outs, in) < std::tie(other.parts, other.outs, other.in);
}

WeightKey BindWeight(const WeightParts& parts, const CpuOpBuilder& builder) {
  WeightKey key;
  key.in = parts[0].shape[0];
  for (const TensorView& part : parts) {
    key.parts.push_back(builder.Memory<const float>(part));
    key.outs.push_back(part.shape[1]);
  }
  return key;
}

int64_t PackedWeights::BlobBytes(const WeightKey& key) {
  return key.in * key.out() * static_cast<int64_t>(sizeof(float));
}

// Packs what one step reads. Phase 0: copies with padding are cleared, since the buffer held other
// weights. Phase 1: an item is a slab of a weight.
class PackedWeights::UsesOp : public CpuOp {
 public:
  explicit UsesOp(const PackedWeights& weights) : weights_(weights) {}

  PackedCopy* Find(const WeightKey& key, const WeightFormat& format) const {
    const auto found = uses_.find(key);
    return found == uses_.end() ? nullptr : PackedWeights::Find(found->second, format);
  }
  PackedCopy* Add(const WeightKey& wanted, std::unique_ptr<PackedCopy> copy) {
    copy->offset = bytes_;
    bytes_ += AlignUp(copy->bytes);
    auto& [key, copies] = *uses_.try_emplace(wanted).first;
    for (int64_t slab = 0; copies.empty() && slab < Slabs(key); ++slab)
      slabs_.emplace_back(&key, slab);
    if (IsPadded(key, *copy)) padded_.push_back(copy.get());
    copies.push_back(std::move(copy));
    return copies.back().get();
  }
  int64_t bytes() const { return bytes_; }

  int phases() const override { return uses_.empty() ? 0 : 2; }
  int64_t items(int phase) const override {
    return static_cast<int64_t>(phase == 0 ? padded_.size() : slabs_.size());
  }
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override {
    for (int64_t i = begin; i < end; ++i) {
      if (phase == 0) {
        std::memset(padded_[i]->data(), 0, padded_[i]->bytes);
      } else {
        const auto& [key, slab] = slabs_[i];
        weights_.PackCopies(*key, uses_.at(*key), slab, /*only_new=*/false, context.scratch);
      }
    }
  }

 private:
  bool IsPadded(const WeightKey& key, const PackedCopy& copy) const {
    const PackedLayout& layout = copy.layout;
    if (layout.edges.empty()) return false;  // a blob is packed with its padding
    const int64_t units = layout.units * PerUnit(copy.format, weights_.isa_);
    return copy.format.transposed ? units != key.out() || layout.edges.back() != key.in
                                  : units != key.in || layout.edges.back() != key.out();
  }

  const PackedWeights& weights_;
  std::map<WeightKey, Copies> uses_;
  std::vector<std::pair<const WeightKey*, int64_t>> slabs_;
  std::vector<const PackedCopy*> padded_;
  int64_t bytes_ = 0;
};

PackedCopy* PackedWeights::Find(const Copies& copies, const WeightFormat& format) {
  for (const auto& copy : copies) {
    if (copy->format == format) return copy.get();
  }
  return nullptr;
}

std::unique_ptr<PackedCopy> PackedWeights::NewCopy(const WeightKey& key,
                                                   const WeightFormat& format) const {
  auto copy = std::make_unique<PackedCopy>();
  copy->format = format;
  copy->bytes = PackedBytes(format, isa_, key.in, key.out());
  copy->layout = LayoutOf(format, isa_, key.in, key.out());
  int64_t part_begin = 0;
  for (const int64_t out : key.outs) {
    if (part_begin % PerUnit(format, isa_) != 0) copy->layout.edges.clear();
    part_begin += out;
  }
  return copy;
}

absl::StatusOr<const PackedCopy*> PackedWeights::Get(const WeightKey& key,
                                                     const WeightFormat& format) {
  if (per_use_) {
    if (const PackedCopy* known = uses_->Find(key, format)) return known;
    PackedCopy* copy = uses_->Add(key, NewCopy(key, format));
    copy->block = &shared_;
    shared_bytes_ = std::max(shared_bytes_, uses_->bytes());
    if (copy->layout.edges.empty()) use_blob_bytes_ = std::max(use_blob_bytes_, BlobBytes(key));
    return copy;
  }
  Copies& copies = weights_[key];
  if (const PackedCopy* known = Find(copies, format)) return known;
  auto copy = NewCopy(key, format);
  VITSCALE_RETURN_IF_ERROR(Place(*copy));
  copies.push_back(std::move(copy));
  bytes_ += copies.back()->bytes;
  any_new_ = true;
  return copies.back().get();
}

absl::Status PackedWeights::Place(PackedCopy& copy) {
  const int64_t bytes = AlignUp(copy.bytes);
  if (blocks_.empty() || block_used_ + bytes > blocks_.back().bytes()) {
    VITSCALE_ASSIGN_OR_RETURN(Memory block,
                              Memory::Allocate(std::max(bytes, kBlockBytes), "packed weights"));
    blocks_.push_back(std::move(block));
    block_used_ = 0;
  }
  copy.block = &blocks_.back();
  copy.offset = block_used_;
  block_used_ += bytes;
  return absl::OkStatus();
}

std::unique_ptr<CpuOp> PackedWeights::BeginUses() {
  if (!per_use_) return nullptr;
  auto op = std::make_unique<UsesOp>(*this);
  uses_ = op.get();
  return op;
}

// Rows are read from memory for the first copy and from the cache for the second. Padding is zero
// from the start and stays so.
void PackedWeights::PackPart(const WeightKey& key, size_t part, int64_t row, int64_t rows,
                             const std::vector<const PackedCopy*>& copies) const {
  PackedPiece all;
  all.stride = all.columns = key.outs[part];
  all.source = key.parts[part] + row * all.stride;
  all.row = row;
  all.rows = rows;
  for (size_t i = 0; i < part; ++i) all.column += key.outs[i];
  for (const PackedCopy* copy : copies) {
    if (copy->format.transposed) {
      PackPiece(all, *copy);
      continue;
    }
    for (int64_t done = 0; done < rows; done += kRowsTogether) {
      PackedPiece few = all;
      few.source += done * all.stride;
      few.row += done;
      few.rows = std::min(kRowsTogether, rows - done);
      PackPiece(few, *copy);
    }
  }
}

void PackedWeights::PackPiece(const PackedPiece& r, const PackedCopy& copy) const {
  const WeightFormat& format = copy.format;
  const WeightPackKernels& kernels = WeightPackKernelsFor(isa_, format.bf16);
  const int64_t per_unit = PerUnit(format, isa_);
  auto* to = reinterpret_cast<float*>(copy.data());
  PackRectangle out;
  out.stride = r.stride;
  out.stream = streams();
  if (!format.transposed) {
    out.k = r.rows;
    ForBlocks(copy.layout, r.column, r.columns,
              [&](int64_t at, int64_t columns, int64_t begin, int64_t width) {
                out.source = r.source + (at - r.column);
                out.columns = columns;
                out.to = to + begin * copy.layout.units + r.row / per_unit * width + (at - begin);
                out.to_stride = width;
                kernels.rows(out);
              });
    return;
  }
  out.k = r.columns;
  ForBlocks(copy.layout, r.row, r.rows,
            [&](int64_t at, int64_t columns, int64_t begin, int64_t width) {
              out.source = r.source + (at - r.row) * r.stride;
              out.columns = columns;
              out.to = to + begin * copy.layout.units + r.column / per_unit * width + (at - begin);
              out.to_stride = width;
              kernels.transposed(out);
            });
}

void PackedWeights::PackCopies(const WeightKey& key, const Copies& copies, int64_t slab,
                               bool only_new, std::byte* scratch) const {
  std::vector<const PackedCopy*> by_rows;
  for (const auto& copy : copies) {
    if (only_new && copy->made) continue;
    if (!copy->layout.edges.empty()) {
      by_rows.push_back(copy.get());
    } else if (slab == 0) {
      PackFromBlob(key, *copy, scratch);
    }
  }
  const int64_t row = slab * kSlabRows;
  for (size_t part = 0; part < key.parts.size() && !by_rows.empty(); ++part)
    PackPart(key, part, row, std::min(kSlabRows, key.in - row), by_rows);
}

void PackedWeights::PackFromBlob(const WeightKey& key, const PackedCopy& copy,
                                 std::byte* scratch) const {
  FillBlob(key, copy.format.bf16, ElementwiseKernelsFor(isa_), scratch);
  PackWeight(copy.format, isa_, key.in, key.out(), scratch, copy.data());
}

const PackedWeights::Copies& PackedWeights::CopiesOf(const WeightKey& key) const {
  static const auto* none = new Copies;
  const auto found = weights_.find(key);
  return found == weights_.end() ? *none : found->second;
}

void PackedWeights::Pack(const WeightKey& key, int64_t slab, std::byte* scratch) const {
  PackCopies(key, CopiesOf(key), slab, /*only_new=*/false, scratch);
}

void PackedWeights::PackRows(const WeightKey& key, size_t part, int64_t row, int64_t rows) const {
  std::vector<const PackedCopy*> by_rows;
  for (const auto& copy : CopiesOf(key)) {
    if (!copy->layout.edges.empty()) by_rows.push_back(copy.get());
  }
  if (!by_rows.empty()) PackPart(key, part, row, rows, by_rows);
}

void PackedWeights::PackBlobs(const WeightKey& key, std::byte* scratch) const {
  for (const auto& copy : CopiesOf(key)) {
    if (copy->layout.edges.empty()) PackFromBlob(key, *copy, scratch);
  }
}

absl::Status PackedWeights::PackNew() {
  if (shared_bytes_ > shared_.bytes()) {
    VITSCALE_ASSIGN_OR_RETURN(shared_, Memory::Allocate(shared_bytes_, "packed weights"));
  }
  if (!any_new_) return absl::OkStatus();
  int64_t bytes = 0;
  for (const auto& [key, copies] : weights_) bytes = std::max(bytes, BlobBytes(key));
  VITSCALE_ASSIGN_OR_RETURN(const Memory scratch, Memory::Allocate(bytes, "weight packing"));
  for (const auto& [key, copies] : weights_) {
    for (int64_t slab = 0; slab < Slabs(key); ++slab)
      PackCopies(key, copies, slab, /*only_new=*/true, scratch.data());
    for (const auto& copy : copies) copy->made = true;
  }
  _mm_sfence();
  any_new_ = false;
  return absl::OkStatus();
}

}  // namespace vitscale::cpu
