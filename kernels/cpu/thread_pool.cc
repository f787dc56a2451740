#include "kernels/cpu/thread_pool.h"

#include <omp.h>

namespace vitscale::cpu {
namespace {

// Waits of a few microseconds are common between the phases of a step; a sleep and its wake-up cost
// more.
constexpr int kSpins = 2000;

void WaitWhileEqual(const std::atomic<uint32_t>& counter, uint32_t value) {
  for (int i = 0; i < kSpins; ++i) {
    if (counter.load(std::memory_order_acquire) != value) return;
    __builtin_ia32_pause();
  }
  while (counter.load(std::memory_order_acquire) == value) counter.wait(value);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads) {
  for (int thread = 1; thread < size_; ++thread) {
    threads_.emplace_back([this, thread] { Loop(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  run_.fetch_add(1);
  run_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Loop(int thread) {
  omp_set_num_threads(1);
  for (uint32_t seen = 0;; ++seen) {
    WaitWhileEqual(run_, seen);
    if (stop_.load()) return;
    (*work_)(thread);
    Barrier();
  }
}

void ThreadPool::Run(const std::function<void(int thread)>& work) {
  omp_set_num_threads(1);
  if (size_ == 1) return work(0);
  work_ = &work;
  run_.fetch_add(1);
  run_.notify_all();
  work(0);
  Barrier();
}

void ThreadPool::Barrier() {
  if (size_ == 1) return;
  const uint32_t round = barrier_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) {
    WaitWhileEqual(barrier_, round);
    return;
  }
  arrived_.store(0, std::memory_order_relaxed);
  barrier_.fetch_add(1, std::memory_order_release);
  barrier_.notify_all();
}

}  // namespace vitscale::cpu
