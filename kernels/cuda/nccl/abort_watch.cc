#include "kernels/cuda/nccl/abort_watch.h"

#include <utility>

#include "kernels/base/await.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {

AbortWatch::AbortWatch(absl::Duration limit, std::function<void()> on_hung)
    : limit_(limit), on_hung_(std::move(on_hung)) {
  VITSCALE_CHECK(on_hung_ != nullptr) << "somebody must end a process whose abort hangs";
}

void AbortWatch::Begin(std::function<void()> abort) {
  absl::MutexLock lock(&mutex_);
  if (std::exchange(begun_, true)) return;
  watch_ = std::thread([this] { Watch(); });
  abort_ = std::thread([this, abort = std::move(abort)] {
    abort();
    absl::MutexLock done(&mutex_);
    done_ = true;
  });
}

void AbortWatch::Watch() {
  {
    absl::MutexLock lock(&mutex_);
    if (AwaitFor(mutex_, absl::Condition(&done_), limit_)) return;
  }
  on_hung_();
}

void AbortWatch::Join() {
  std::thread abort, watch;
  {
    absl::MutexLock lock(&mutex_);
    abort.swap(abort_);
    watch.swap(watch_);
  }
  if (abort.joinable()) abort.join();
  if (watch.joinable()) watch.join();
}

}  // namespace vitscale::cuda
