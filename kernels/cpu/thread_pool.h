// The threads of one CPU backend. The caller of Run is thread 0; the others sleep between runs.
//
// oneDNN is built with OpenMP, and a thread that is not of an OpenMP team starts a team of its own
// inside oneDNN. Every thread here therefore sets its own OpenMP thread number to 1, the caller at
// each Run.

#ifndef KERNELS_CPU_THREAD_POOL_H_
#define KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace vitscale::cpu {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls work(thread) once on each thread, 0 on the caller's; returns when all are done. Not
  // reentrant.
  void Run(const std::function<void(int thread)>& work);

  // Inside Run: returns when every thread has come here. What any wrote before it, all see after
  // it.
  void Barrier();

 private:
  void Loop(int thread);

  const int size_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<uint32_t> run_{0};  // counts calls of Run
  std::atomic<bool> stop_{false};
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> barrier_{0};  // counts barriers passed
  std::vector<std::thread> threads_;
};

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_THREAD_POOL_H_
