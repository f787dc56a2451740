#include "worker/collective/shared_memory_collective.h"

#include <utility>

#include "worker/collective/queued_collective.h"
#include "worker/collective/shared_memory_wire.h"

namespace vitscale {

std::unique_ptr<Collective> MakeSharedMemoryCollective(SharedMemoryOptions options) {
  return MakeQueuedCollective(MakeSharedMemoryWire(std::move(options)));
}

}  // namespace vitscale
