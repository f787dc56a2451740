// kernels/cuda/dialect/host_twin.h: what the dialect's functions do for a thread that is a fiber.

#include "kernels/cuda/dialect/host_twin.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/bf16.h"
#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/fault.h"
#include "tests/cuda_on_cpu/shared_memory.h"

namespace vitscale::cuda::host_twin {

using cuda_on_cpu::Fault;
using cuda_on_cpu::kLanes;

// Where the kernel called.
#define CALLER __builtin_return_address(0)

const PlaceInGrid& Place() { return cuda_on_cpu::RunningThread()->place; }

void BlockBarrier() { cuda_on_cpu::MeetBlock(CALLER); }

void WarpBarrier() {
  cuda_on_cpu::MeetWarp("WarpBarrier", CALLER, nullptr, [](void* const*) {});
  ++cuda_on_cpu::RunningThread()->warp_barriers;
}

void* SharedMemory(size_t bytes) { return cuda_on_cpu::SharedMemoryOf(bytes, CALLER); }

void BadIndex(int i, int count, int size) {
  Fault(absl::StrCat("elements ", i, " to ", i + count - 1, " of a shared array of ", size),
        CALLER);
}

void BadAlignment(const void* at, size_t alignment) {
  Fault(absl::StrCat("an access of ", alignment, " bytes at address 0x",
                     absl::Hex(reinterpret_cast<uintptr_t>(at)), ", no multiple of it"),
        CALLER);
}

void ReadShared(void* to, const void* shared, size_t bytes, size_t alignment) {
  cuda_on_cpu::CheckedRead(to, shared, bytes, alignment, CALLER);
}

void WriteShared(void* shared, const void* from, size_t bytes, size_t alignment) {
  cuda_on_cpu::CheckedWrite(shared, from, bytes, alignment, CALLER);
}

void CopyAsync(void* to, const void* from, bool valid) {
  cuda_on_cpu::IssueCopy(to, from, valid, CALLER);
}
void CopyCommit() { cuda_on_cpu::CommitCopies(); }
void CopyWait(int pending) { cuda_on_cpu::AwaitCopies(pending, CALLER); }

// ---- warps -----------------------------------------------------------------------------------

namespace {

struct Exchange {
  uint64_t mine, got;
  int from;
};

void DoExchange(void* const* given) {
  for (int lane = 0; lane < kLanes; ++lane) {
    auto* exchange = static_cast<Exchange*>(given[lane]);
    exchange->got = static_cast<const Exchange*>(given[exchange->from])->mine;
  }
}

struct Mma {
  float* c;
  const uint32_t* a;
  const uint32_t* b;
};

float Low(uint32_t pair) { return FromBf16(static_cast<uint16_t>(pair)); }
float High(uint32_t pair) { return FromBf16(static_cast<uint16_t>(pair >> 16)); }

// Lane by lane as mma.h lays the operands out; every sum in order of k.
void DoMma(void* const* given) {
  alignas(64) float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* mma = static_cast<const Mma*>(given[lane]);
    const int group = lane / 4, pair = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = group + i % 2 * 8, column = 2 * pair + i / 2 * 8;
      a[row][column] = Low(mma->a[i]);
      a[row][column + 1] = High(mma->a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * pair + i * 8][group] = Low(mma->b[i]);
      b[2 * pair + i * 8 + 1][group] = High(mma->b[i]);
    }
    for (int i = 0; i < 4; ++i) c[group + i / 2 * 8][2 * pair + i % 2] = mma->c[i];
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) c[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* mma = static_cast<const Mma*>(given[lane]);
    for (int i = 0; i < 4; ++i) mma->c[i] = c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
  }
}

struct Matrices {
  uint16_t row[8];
  uint32_t* r;
  int matrices;
  bool transposed;
};

void DoLoadMatrix(void* const* given) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* mine = static_cast<const Matrices*>(given[lane]);
    for (int m = 0; m < mine->matrices; ++m) {
      const auto element = [&](int row, int column) -> uint32_t {
        return static_cast<const Matrices*>(given[m * 8 + row])->row[column];
      };
      const int group = lane / 4, pair = 2 * (lane % 4);
      mine->r[m] = mine->transposed ? element(pair, group) | element(pair + 1, group) << 16
                                    : element(group, pair) | element(group, pair + 1) << 16;
    }
  }
}

}  // namespace

uint64_t ExchangeWarp(uint64_t mine, int lane) {
  if (lane < 0 || lane >= kLanes) Fault(absl::StrCat("a shuffle from lane ", lane), CALLER);
  Exchange exchange{mine, 0, lane};
  cuda_on_cpu::MeetWarp("a shuffle", CALLER, &exchange, &DoExchange);
  return exchange.got;
}

void MmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Mma mma{c, a, b};
  cuda_on_cpu::MeetWarp("MmaBf16", CALLER, &mma, &DoMma);
}

// Every lane reads the row that it names when it comes: no lane may still be writing it then.
void LoadMatrix(uint32_t* r, int matrices, bool transposed, const void* row) {
  Matrices load{{}, r, matrices, transposed};
  if (cuda_on_cpu::RunningThread()->lane < 8 * matrices) {
    cuda_on_cpu::CheckedRead(load.row, row, sizeof(load.row), sizeof(load.row), CALLER);
  }
  cuda_on_cpu::MeetWarp("LoadMatrix", CALLER, &load, &DoLoadMatrix);
}

// ---- launches --------------------------------------------------------------------------------

absl::Status Launch(std::function<void()> body, const void* kernel,
                    std::vector<KernelArgument> arguments, dim3 grid, dim3 block,
                    size_t shared_bytes, cudaStream_t stream) {
  return cuda_on_cpu::LaunchKernel({std::move(body), kernel, grid, block, shared_bytes},
                                   std::move(arguments), stream);
}

}  // namespace vitscale::cuda::host_twin
