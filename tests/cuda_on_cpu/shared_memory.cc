#include "tests/cuda_on_cpu/shared_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "tests/cuda_on_cpu/sanitizer.h"

namespace vitscale::cuda_on_cpu {
namespace {

constexpr int kFirstShift = 4;  // cells of 16 bytes
constexpr size_t kCopyBytes = 16;
constexpr int kAnyWarp = -2;

// Epochs count block barriers of the whole program, so a new block needs no clean shadow. Within an
// epoch a thread's time is the number of warp barriers it has passed.
struct Cell {
  uint32_t write_epoch = 0, write_time = 0;
  uint32_t read_epoch = 0, read_time = 0;  // of the last reader
  uint32_t others_time = 0;                // the latest of all other readers of this epoch
  int16_t writer = -1, reader = -1;        // threads of the block
  int16_t others_warp = -1;                // -1: no others; kAnyWarp: several warps
  int16_t copying = -1;                    // the thread whose copy is under way
  CodePlace write_place = nullptr, read_place = nullptr;
};

int WarpOf(int thread) { return thread / kLanes; }

class Shared {
 public:
  void BeginLaunch(size_t bytes);
  void BeginBlock();
  void PassBarrier() { ++epoch_; }

  std::byte* data() { return data_.get(); }
  size_t bytes() const { return bytes_; }
  void Read(const void* at, size_t bytes, size_t alignment, CodePlace place);
  void Write(const void* at, size_t bytes, size_t alignment, CodePlace place);
  void SetCopying(const void* at, bool copying, CodePlace place);

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };

  size_t Offset(const void* at, size_t bytes, size_t alignment, CodePlace place) const;
  void Split(int shift);
  void ReadCell(Cell& cell, const KernelThread& self, CodePlace place);
  void WriteCell(Cell& cell, const KernelThread& self, CodePlace place);
  bool Ordered(int thread, uint32_t time, const KernelThread& self) const {
    return thread == self.index || (WarpOf(thread) == self.warp && self.warp_barriers > time);
  }
  template <typename Visit>
  void ForCells(size_t offset, size_t bytes, Visit visit) {
    if (bytes < size_t{1} << shift_) Split(__builtin_ctzll(bytes));
    const size_t end = (offset + bytes) >> shift_;
    for (size_t i = offset >> shift_; i < end; ++i) visit(cells_[i]);
  }

  std::unique_ptr<std::byte, Free> data_;
  size_t bytes_ = 0;
  int shift_ = kFirstShift;
  std::vector<Cell> cells_;
  uint32_t epoch_ = 1, first_epoch_ = 1;  // first of this block
};

Shared& TheShared() {
  static auto* shared = new Shared;
  return *shared;
}

void Shared::BeginLaunch(size_t bytes) {
  void* raw = nullptr;
  if (bytes > 0) VITSCALE_CHECK(posix_memalign(&raw, 128, bytes) == 0) << "no shared memory";
  data_.reset(static_cast<std::byte*>(raw));
  bytes_ = bytes;
  shift_ = kFirstShift;
  cells_.assign((bytes + 15) >> shift_, Cell());
}

void Shared::BeginBlock() {
  first_epoch_ = ++epoch_;
  if (bytes_ > 0) std::memset(data_.get(), 0xff, bytes_);  // NaN in f32 and bf16
}

void Shared::Split(int shift) {
  std::vector<Cell> finer;
  const size_t parts = size_t{1} << (shift_ - shift);
  finer.reserve(cells_.size() * parts);
  for (const Cell& cell : cells_) finer.insert(finer.end(), parts, cell);
  cells_ = std::move(finer);
  shift_ = shift;
}

size_t Shared::Offset(const void* at, size_t bytes, size_t alignment, CodePlace place) const {
  const size_t offset = static_cast<const std::byte*>(at) - data_.get();
  if (offset >= bytes_ || bytes_ - offset < bytes) {
    Fault(absl::StrCat(bytes, " bytes at ", static_cast<int64_t>(offset),
                       " lie outside of the block's ", bytes_, " bytes of shared memory"),
          place);
  }
  if (offset % alignment != 0) {
    Fault(absl::StrCat("shared memory at ", offset, " is accessed with alignment ", alignment),
          place);
  }
  return offset;
}

std::string RaceText(const char* now, const char* before, int thread, CodePlace place) {
  return absl::StrCat("race in shared memory: this thread ", now, " what thread ", thread, " ",
                      before, " at ", PlaceName(place), "; no barrier lies between");
}

void Shared::ReadCell(Cell& cell, const KernelThread& self, CodePlace place) {
  if (cell.copying >= 0) {
    Fault(absl::StrCat("shared memory is read while a copy into it is under way, issued by thread ",
                       cell.copying, " at ", PlaceName(cell.write_place)),
          place);
  }
  if (cell.write_epoch < first_epoch_) {
    Fault("shared memory is read that this block has not written", place);
  }
  if (cell.write_epoch == epoch_ && !Ordered(cell.writer, cell.write_time, self)) {
    Fault(RaceText("reads", "wrote", cell.writer, cell.write_place), place);
  }
  if (cell.read_epoch != epoch_) {
    cell.read_epoch = epoch_;
    cell.others_warp = -1;
  } else if (cell.reader != self.index) {
    const int warp = WarpOf(cell.reader);
    cell.others_time =
        cell.others_warp < 0 ? cell.read_time : std::max(cell.others_time, cell.read_time);
    const bool first = cell.others_warp == -1;
    cell.others_warp = static_cast<int16_t>(first || cell.others_warp == warp ? warp : kAnyWarp);
  }
  cell.reader = static_cast<int16_t>(self.index);
  cell.read_time = self.warp_barriers;
  cell.read_place = place;
}

void Shared::WriteCell(Cell& cell, const KernelThread& self, CodePlace place) {
  if (cell.copying >= 0) {
    Fault(absl::StrCat("shared memory is written while a copy into it is under way, issued by "
                       "thread ",
                       cell.copying, " at ", PlaceName(cell.write_place)),
          place);
  }
  if (cell.write_epoch == epoch_ && !Ordered(cell.writer, cell.write_time, self)) {
    Fault(RaceText("writes", "wrote", cell.writer, cell.write_place), place);
  }
  if (cell.read_epoch == epoch_) {
    const bool others_ordered = cell.others_warp == -1 || (cell.others_warp == self.warp &&
                                                           self.warp_barriers > cell.others_time);
    if (!Ordered(cell.reader, cell.read_time, self) || !others_ordered) {
      Fault(RaceText("writes", "or another has read", cell.reader, cell.read_place), place);
    }
  }
  cell.write_epoch = epoch_;
  cell.write_time = self.warp_barriers;
  cell.writer = static_cast<int16_t>(self.index);
  cell.write_place = place;
  cell.read_epoch = 0;
}

void Shared::Read(const void* at, size_t bytes, size_t alignment, CodePlace place) {
  const size_t offset = Offset(at, bytes, alignment, place);
  const KernelThread& self = *RunningThread();
  ForCells(offset, bytes, [&](Cell& cell) { ReadCell(cell, self, place); });
}

void Shared::Write(const void* at, size_t bytes, size_t alignment, CodePlace place) {
  const size_t offset = Offset(at, bytes, alignment, place);
  const KernelThread& self = *RunningThread();
  ForCells(offset, bytes, [&](Cell& cell) { WriteCell(cell, self, place); });
}

// A copy writes when it is issued (it may land at once) and again when it is awaited (or only
// then).
void Shared::SetCopying(const void* at, bool copying, CodePlace place) {
  const size_t offset = Offset(at, kCopyBytes, kCopyBytes, place);
  const KernelThread& self = *RunningThread();
  ForCells(offset, kCopyBytes, [&](Cell& cell) {
    if (!copying) cell.copying = -1;
    WriteCell(cell, self, copying ? place : cell.write_place);
    if (copying) cell.copying = static_cast<int16_t>(self.index);
  });
}

void Land(const PendingCopy& copy, CodePlace place) {
  TheShared().SetCopying(copy.to, false, place);
  if (copy.valid) {
    std::memcpy(copy.to, copy.from, kCopyBytes);
  } else {
    std::memset(copy.to, 0, kCopyBytes);
  }
}

}  // namespace

void BeginSharedMemory(size_t bytes) { TheShared().BeginLaunch(bytes); }
void BeginBlockSharedMemory() { TheShared().BeginBlock(); }
void PassBlockBarrier() { TheShared().PassBarrier(); }

void* SharedMemoryOf(size_t struct_bytes, CodePlace place) {
  if (struct_bytes != TheShared().bytes()) {
    Fault(absl::StrCat("the kernel's shared memory is ", struct_bytes,
                       " bytes, the launch asked for ", TheShared().bytes()),
          place);
  }
  return TheShared().data();
}

void CheckedRead(void* to, const void* shared, size_t bytes, size_t alignment, CodePlace place) {
  TheShared().Read(shared, bytes, alignment, place);
  std::memcpy(to, shared, bytes);
}

void CheckedWrite(void* shared, const void* from, size_t bytes, size_t alignment, CodePlace place) {
  TheShared().Write(shared, bytes, alignment, place);
  std::memcpy(shared, from, bytes);
}

void IssueCopy(void* to, const void* from, bool valid, CodePlace place) {
  if (valid && reinterpret_cast<uintptr_t>(from) % kCopyBytes != 0) {
    Fault("CopyAsync from an address that is no multiple of 16", place);
  }
  if (valid && FirstPoisoned(from, kCopyBytes) != nullptr) {
    Fault("CopyAsync reads outside of a buffer in device memory", place);
  }
  TheShared().SetCopying(to, true, place);
  std::memset(to, 0xff, kCopyBytes);
  KernelThread& self = *RunningThread();
  self.copies.push_back({to, from, valid, self.copy_groups});
}

void CommitCopies() { ++RunningThread()->copy_groups; }

void AwaitCopies(int pending, CodePlace place) {
  KernelThread& self = *RunningThread();
  size_t landed = 0;
  for (; landed < self.copies.size(); ++landed) {
    if (self.copies[landed].group >= self.copy_groups - pending) break;
    Land(self.copies[landed], place);
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<ptrdiff_t>(landed));
}

void CheckCopiesAwaited(KernelThread& thread) {
  if (thread.copies.empty()) return;
  Fault(absl::StrCat("a thread returns with ", thread.copies.size(),
                     " copies under way that no CopyWait has awaited"));
}

}  // namespace vitscale::cuda_on_cpu
