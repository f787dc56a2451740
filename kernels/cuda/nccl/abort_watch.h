// Aborts once, on a thread of its own, and notices when that hangs: an abort frees device memory,
// which waits for whatever a device may never end.

#ifndef KERNELS_CUDA_NCCL_ABORT_WATCH_H_
#define KERNELS_CUDA_NCCL_ABORT_WATCH_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace vitscale::cuda {

class AbortWatch {
 public:
  // `on_hung` is called, once, when an abort has not returned after `limit`. It runs on a thread
  // that has made no call of CUDA or NCCL.
  AbortWatch(absl::Duration limit, std::function<void()> on_hung);
  ~AbortWatch() { Join(); }

  // Runs `abort` if this is the first call. Returns at once. Any thread.
  void Begin(std::function<void()> abort);
  // Until an abort that was begun has returned. Of one thread, after the last Begin.
  void Join();

 private:
  void Watch();

  const absl::Duration limit_;
  const std::function<void()> on_hung_;
  absl::Mutex mutex_;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread abort_ ABSL_GUARDED_BY(mutex_);
  std::thread watch_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_NCCL_ABORT_WATCH_H_
