// Digest on CUDA: the same 64 bits as kernels/cpu/digest.cc, which is the definition.
//
//   variant  chosen when  memory traffic per byte of input
//   vector   always       read once, 16 B at a time
//
// A block of threads hashes one block of 64 KiB: a sum mod 2^64, so the order does not matter. What
// the digest folds (of every input its length, then the hashes of its blocks) goes to a slot each,
// and one warp folds the slots in turn: a chain of about 60 cycles a slot, 4 ms for the 7.4 GB of
// parameters of G/14, beside 2.2 ms for reading them.

#include <vector>

#include "kernels/base/status.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/floats.h"

namespace vitscale::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlockBytes = 64 * 1024;
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;

struct Input {
  const uint8_t* data;
  int64_t bytes;
  int64_t first_slot;  // of its length; the slots of its blocks follow
};

__device__ inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
__device__ inline uint64_t MixWord(uint64_t word, int64_t place) {
  return Mix(word ^ (kGolden * static_cast<uint64_t>(place + 1)));
}

// ---- blocks -------------------------------------------------------------------------------------

struct HashShared {
  WarpSlots<uint64_t> sums;
};

// This thread's part of the hash of `bytes` bytes.
__device__ inline uint64_t HashPart(const uint8_t* block, int64_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(block);
  const int64_t count = bytes / 8, pairs = count / 2;
  uint64_t sum = 0;
#pragma unroll 4
  for (int64_t pair = threadIdx.x; pair < pairs; pair += kThreads) {
    const Vec<uint64_t, 2> two = LoadVec<2>(words + 2 * pair);
    sum += MixWord(two[0], 2 * pair) + MixWord(two[1], 2 * pair + 1);
  }
  if (threadIdx.x != 0) return sum;
  if (count % 2 != 0) sum += MixWord(words[count - 1], count - 1);
  if (bytes % 8 != 0) {
    uint64_t last = 0;
    for (int64_t i = 0; i < bytes % 8; ++i) {
      last |= static_cast<uint64_t>(block[count * 8 + i]) << (8 * i);
    }
    sum += MixWord(last, count);
  }
  return sum;
}

// A block of threads fills one slot.
__global__ void __launch_bounds__(kThreads)
    HashBlocks(const Input* inputs, int input_count, uint64_t* slots) {
  auto& shared = SharedMemory<HashShared>();
  const int64_t slot = blockIdx.x;
  int low = 0, high = input_count;  // the last input whose first slot is at most this one
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (inputs[middle].first_slot <= slot ? low : high) = middle;
  }
  const Input input = inputs[low];
  const int64_t at = (slot - input.first_slot - 1) * kBlockBytes;
  uint64_t value = static_cast<uint64_t>(input.bytes);
  if (at >= 0) {  // the same for all threads
    const int64_t left = input.bytes - at;
    value =
        BlockSum(HashPart(input.data + at, left < kBlockBytes ? left : kBlockBytes), shared.sums);
  }
  if (threadIdx.x == 0) slots[slot] = value;
}

// ---- fold ---------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kWarpLanes)
    FoldSlots(const uint64_t* slots, int64_t count, uint64_t* digest) {
  uint64_t result = 0;
  for (int64_t first = 0; first < count; first += kWarpLanes) {
    const uint64_t mine = first + Lane() < count ? slots[first + Lane()] : 0;
    const int here = static_cast<int>(count - first < kWarpLanes ? count - first : kWarpLanes);
    for (int lane = 0; lane < here; ++lane) {
      result = Mix(result * kGolden + Shuffle(mine, lane) + 1);
    }
  }
  if (Lane() == 0) *digest = result;
}

}  // namespace

// ---- launcher -----------------------------------------------------------------------------------

CudaOpOr MakeCudaOp(const DigestArgs& args, CudaOpBuilder& builder) {
  std::vector<Input> table;
  int64_t slot_count = 0;
  for (const TensorView& input : args.inputs) {
    table.push_back({builder.Memory<const uint8_t>(input), input.bytes(), slot_count});
    slot_count += 1 + CeilDivide(input.bytes(), kBlockBytes);
  }
  const auto input_count = static_cast<int>(table.size());
  const Input* inputs = builder.Constant(table.data(), input_count);
  uint64_t* slots = builder.Reserve<uint64_t>(slot_count + 1);  // one at least
  uint64_t* digest = builder.Memory<uint64_t>(args.digest);
  return MakeOp("vector", [=](const RunContext& context) {
    if (slot_count > 0) {
      VITSCALE_RETURN_IF_ERROR(Launch(HashBlocks, dim3(Blocks(slot_count)), dim3(kThreads),
                                      sizeof(HashShared), context.stream, inputs, input_count,
                                      slots));
    }
    return Launch(FoldSlots, dim3(1), dim3(kWarpLanes), 0, context.stream, slots, slot_count,
                  digest);
  });
}

}  // namespace vitscale::cuda
