#include "tests/cuda_on_cpu/block.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/cuda_on_cpu/shared_memory.h"

namespace vitscale::cuda_on_cpu {
namespace {

uint64_t SeedFromEnvironment() {
  const char* text = std::getenv("VITSCALE_SCHEDULE_SEED");
  uint64_t seed = 0;
  return text != nullptr && absl::SimpleAtoi(text, &seed) ? seed : 0;
}
uint64_t schedule_seed = SeedFromEnvironment();

// xorshift64*; Vigna 2016.
class Draws {
 public:
  explicit Draws(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u | 1) {}
  uint32_t Below(uint32_t bound) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint32_t>((state_ * 0x2545f4914f6cdd1du >> 32) * bound >> 32);
  }

 private:
  uint64_t state_;
};

using Order = std::array<uint8_t, 32>;
void Permute(Order& order, int count, Draws* draws) {
  std::iota(order.begin(), order.end(), 0);
  if (draws == nullptr) return;
  for (int i = count - 1; i > 0; --i) std::swap(order[i], order[draws->Below(i + 1)]);
}

struct Warp {
  int lanes = 0;
  Order order;                   // place in the schedule -> lane
  std::array<uint8_t, 32> turn;  // lane -> place in the schedule
  uint32_t ready = 0;            // bit per place in the schedule
  int arrived = 0;               // at a collective
  CodePlace place = nullptr;     // of the first that arrived
  const char* collective = nullptr;
  void* given[kLanes] = {};
};

class Block {
 public:
  void Run(const Launched& launched, uint3 block, Draws* draws);
  void MeetBlock(CodePlace place);
  void MeetWarp(const char* collective, CodePlace place, void* given, WarpAction act);

  KernelThread* running() { return running_; }
  const Launched& launched() const { return *launched_; }

 private:
  static void ThreadMain(void* thread);
  void Return();
  void Prepare(int index, uint3 block);
  void MakeReady(const KernelThread& thread);
  void ReleaseBarrier();
  KernelThread* Next();
  void RunNext();
  [[noreturn]] void MissingLanes(const Warp& warp, int warp_index);
  std::string Whereabouts(const KernelThread& thread) const;

  const Launched* launched_ = nullptr;
  Draws* draws_ = nullptr;
  Fiber host_;
  std::vector<std::unique_ptr<KernelThread>> threads_;  // reused from block to block
  std::array<Warp, kWarpsMax> warps_;
  KernelThread* running_ = nullptr;
  int count_ = 0, warp_count_ = 0;
  int live_ = 0, at_barrier_ = 0;
  CodePlace barrier_place_ = nullptr;
  int turn_ = 0;  // the warp whose lanes are taken now
  Order warp_order_;
};

Block& TheBlock() {
  static auto* block = new Block;
  return *block;
}

void Block::ThreadMain(void* argument) {
  auto* thread = static_cast<KernelThread*>(argument);
  for (;;) {  // once per block
    TheBlock().launched_->body();
    TheBlock().Return();
    (void)thread;
  }
}

void Block::Prepare(int index, uint3 block) {
  if (index >= static_cast<int>(threads_.size())) {
    threads_.push_back(std::make_unique<KernelThread>());
    threads_.back()->fiber.Start(&Block::ThreadMain, threads_.back().get());
  }
  KernelThread& thread = *threads_[index];
  const dim3 dim = launched_->block;
  const auto i = static_cast<unsigned>(index);
  thread.place = {{i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)}, block, dim, launched_->grid};
  thread.index = index;
  thread.warp = index / kLanes;
  thread.lane = index % kLanes;
  thread.waits_at = nullptr;
  thread.at_barrier = thread.returned = false;
  thread.warp_barriers = 0;
  thread.copy_groups = 0;
}

void Block::Run(const Launched& launched, uint3 block, Draws* draws) {
  launched_ = &launched;
  draws_ = draws;
  count_ = live_ = static_cast<int>(launched.block.x * launched.block.y * launched.block.z);
  warp_count_ = (count_ + kLanes - 1) / kLanes;
  at_barrier_ = 0;
  turn_ = 0;
  Permute(warp_order_, warp_count_, draws);
  for (int w = 0; w < warp_count_; ++w) {
    Warp& warp = warps_[w];
    warp.lanes = std::min(kLanes, count_ - w * kLanes);
    Permute(warp.order, warp.lanes, draws);
    for (int i = 0; i < warp.lanes; ++i) warp.turn[warp.order[i]] = static_cast<uint8_t>(i);
    warp.ready = warp.arrived = 0;
  }
  for (int i = 0; i < count_; ++i) {
    Prepare(i, block);
    MakeReady(*threads_[i]);
  }
  running_ = Next();
  Fiber::Switch(host_, running_->fiber);
  running_ = nullptr;
}

void Block::MakeReady(const KernelThread& thread) {
  warps_[thread.warp].ready |= 1u << warps_[thread.warp].turn[thread.lane];
}

// A lane of the warp whose turn it is; another warp when all its lanes wait. Null: all have
// returned.
KernelThread* Block::Next() {
  for (int tried = 0; tried < warp_count_; ++tried) {
    const int w = warp_order_[turn_];
    Warp& warp = warps_[w];
    if (warp.ready != 0) {
      const int lane = warp.order[__builtin_ctz(warp.ready)];
      warp.ready &= warp.ready - 1;
      return threads_[w * kLanes + lane].get();
    }
    if (warp.arrived > 0) MissingLanes(warp, w);
    turn_ = turn_ + 1 == warp_count_ ? 0 : turn_ + 1;
  }
  return nullptr;
}

void Block::RunNext() {
  KernelThread* self = running_;
  KernelThread* next = Next();
  if (next == self) return;
  running_ = next;
  Fiber::Switch(self->fiber, next == nullptr ? host_ : next->fiber);
}

void Block::Return() {
  KernelThread& self = *running_;
  CheckCopiesAwaited(self);
  self.returned = true;
  --live_;
  if (at_barrier_ > 0) {
    Fault("a thread has returned while others wait at a block barrier", barrier_place_);
  }
  RunNext();
}

void Block::MeetBlock(CodePlace place) {
  KernelThread& self = *running_;
  if (live_ < count_) {
    Fault("a block barrier that some threads, having returned, will not reach", place);
  }
  if (at_barrier_ == 0) barrier_place_ = place;
  if (place != barrier_place_ && !SamePlace(place, barrier_place_)) {
    Fault(absl::StrCat("threads of one block wait at two block barriers, the other at ",
                       PlaceName(barrier_place_)),
          place);
  }
  self.waits_at = place;
  self.at_barrier = true;
  if (++at_barrier_ == live_) ReleaseBarrier();
  RunNext();
  self.waits_at = nullptr;
}

void Block::ReleaseBarrier() {
  at_barrier_ = 0;
  for (int i = 0; i < count_; ++i) {
    threads_[i]->at_barrier = false;
    MakeReady(*threads_[i]);
  }
  PassBlockBarrier();
}

void Block::MeetWarp(const char* collective, CodePlace place, void* given, WarpAction act) {
  KernelThread& self = *running_;
  Warp& warp = warps_[self.warp];
  if (warp.arrived == 0) {
    warp.place = place;
    warp.collective = collective;
  } else if (place != warp.place && !SamePlace(place, warp.place)) {
    Fault(absl::StrCat("lanes of one warp stand at two collectives, the other at ",
                       PlaceName(warp.place)),
          place);
  }
  warp.given[self.lane] = given;
  self.waits_at = place;
  if (++warp.arrived == kLanes) {
    act(warp.given);
    warp.arrived = 0;
    warp.ready = 0xffffffffu;
    if (draws_ != nullptr && draws_->Below(8) == 0) turn_ = draws_->Below(warp_count_);
  }
  RunNext();
  self.waits_at = nullptr;
}

std::string Block::Whereabouts(const KernelThread& thread) const {
  if (thread.returned) return "has returned";
  if (thread.waits_at == nullptr) return "runs";
  return absl::StrCat("waits at ", thread.at_barrier ? "the block barrier " : "",
                      PlaceName(thread.waits_at));
}

void Block::MissingLanes(const Warp& warp, int w) {
  std::string text = absl::StrCat("lanes are missing at ", warp.collective, ": ", warp.arrived,
                                  " of 32 lanes of warp ", w, " came; ");
  if (warp.lanes < kLanes) {
    absl::StrAppend(&text, "the block has only ", warp.lanes, " threads in this warp");
    Fault(text, warp.place);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const KernelThread& thread = *threads_[w * kLanes + lane];
    if (thread.returned || thread.at_barrier) {
      absl::StrAppend(&text, "lane ", lane, " ", Whereabouts(thread));
      break;
    }
  }
  Fault(text, warp.place);
}

// Blocks in an order that a prime step gives: every one once.
class BlockOrder {
 public:
  BlockOrder(uint64_t count, Draws* draws) : count_(count) {
    if (draws == nullptr || count < 2) return;
    const auto bound = static_cast<uint32_t>(std::min<uint64_t>(count, 1u << 30));
    at_ = draws->Below(bound);
    do step_ = 1 + draws->Below(bound);
    while (std::gcd(step_, count) != 1);
  }
  uint64_t Next() {
    const uint64_t block = at_;
    at_ = (at_ + step_) % count_;
    return block;
  }

 private:
  uint64_t count_, at_ = 0, step_ = 1;
};

}  // namespace

void SetScheduleSeed(uint64_t seed) { schedule_seed = seed; }
uint64_t ScheduleSeed() { return schedule_seed; }
KernelThread* RunningThread() { return TheBlock().running(); }
const Launched& RunningLaunch() { return TheBlock().launched(); }
void MeetBlock(CodePlace place) { TheBlock().MeetBlock(place); }
void MeetWarp(const char* collective, CodePlace place, void* given, WarpAction act) {
  TheBlock().MeetWarp(collective, place, given, act);
}

void RunGrid(const Launched& launched) {
  Draws source(schedule_seed);
  Draws* draws = schedule_seed == 0 ? nullptr : &source;
  const dim3 grid = launched.grid;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  BlockOrder order(blocks, draws);
  BeginSharedMemory(launched.shared_bytes);
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t b = order.Next();
    const uint3 block = {static_cast<unsigned>(b % grid.x),
                         static_cast<unsigned>(b / grid.x % grid.y),
                         static_cast<unsigned>(b / grid.x / grid.y)};
    BeginBlockSharedMemory();
    TheBlock().Run(launched, block, draws);
  }
}

std::string DescribeRunningThread() {
  const KernelThread* thread = RunningThread();
  if (thread == nullptr) return "";
  const auto& place = thread->place;
  return absl::StrCat("  kernel ", FunctionName(RunningLaunch().kernel), "\n  block (",
                      place.block.x, ", ", place.block.y, ", ", place.block.z, "), thread (",
                      place.thread.x, ", ", place.thread.y, ", ", place.thread.z, "), warp ",
                      thread->warp, ", lane ", thread->lane, "\n");
}

}  // namespace vitscale::cuda_on_cpu
