// One rank whose sums take as long as one says and do nothing: shows what of a collective's time
// the rest of a step hides. For benchmarks and tests.

#ifndef WORKER_COLLECTIVE_SLEEPING_COLLECTIVE_H_
#define WORKER_COLLECTIVE_SLEEPING_COLLECTIVE_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "worker/collective/collective.h"

namespace vitscale {

// `sleep` is called on the operations' thread instead of a sum of so many bytes.
std::unique_ptr<Collective> MakeSleepingCollective(std::function<void(int64_t bytes)> sleep);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SLEEPING_COLLECTIVE_H_
