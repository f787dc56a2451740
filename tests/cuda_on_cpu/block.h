// Runs the blocks of a launch one after another and the threads of a block as fibers.
//
// A thread runs until it waits at a block barrier or at a warp collective; then another is chosen.
// The order of blocks, warps and lanes is a permutation drawn from VITSCALE_SCHEDULE_SEED (0, the
// default: in order), so results that depend on it differ from seed to seed. One kernel runs at a
// time; whoever calls RunGrid holds the device's lock (device.h).

#ifndef TESTS_CUDA_ON_CPU_BLOCK_H_
#define TESTS_CUDA_ON_CPU_BLOCK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/dialect/host_twin.h"
#include "tests/cuda_on_cpu/fault.h"
#include "tests/cuda_on_cpu/fiber.h"
#include "tests/cuda_on_cpu/schedule.h"

namespace vitscale::cuda_on_cpu {

inline constexpr int kLanes = 32;
inline constexpr int kWarpsMax = 32;
inline constexpr int kThreadsMax = kLanes * kWarpsMax;

struct PendingCopy {
  void* to;
  const void* from;
  bool valid;
  int group;
};

struct KernelThread {
  Fiber fiber;
  cuda::host_twin::PlaceInGrid place;
  int index = 0;  // in the block
  int warp = 0, lane = 0;
  CodePlace waits_at = nullptr;  // null: runs or has returned
  bool at_barrier = false;       // of the block
  bool returned = false;
  uint32_t warp_barriers = 0;       // passed so far
  std::vector<PendingCopy> copies;  // issued, not yet there
  int copy_groups = 0;              // committed so far
};

struct Launched {
  std::function<void()> body;
  const void* kernel = nullptr;
  dim3 grid, block;
  size_t shared_bytes = 0;
};
void RunGrid(const Launched& launched);

// The thread whose fiber runs now; null while the host runs.
KernelThread* RunningThread();
const Launched& RunningLaunch();
std::string DescribeRunningThread();

// Waits for all live threads of the block.
void MeetBlock(CodePlace place);

// Waits for all 32 lanes. The last one calls act(given), where given[lane] is what each lane gave;
// what it points to may be written.
using WarpAction = void (*)(void* const* given);
void MeetWarp(const char* collective, CodePlace place, void* given, WarpAction act);

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_BLOCK_H_
