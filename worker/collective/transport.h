// Which wire ranks take, where somebody wants a certain one.

#ifndef WORKER_COLLECTIVE_TRANSPORT_H_
#define WORKER_COLLECTIVE_TRANSPORT_H_

#include "absl/strings/string_view.h"

namespace vitscale {

enum class Transport {
  kAuto,          // shared memory where ranks share a host, TCP between hosts
  kSharedMemory,  // no TCP alone: an error where no ranks share a host
  kGloo,          // TCP, also on one host
};

inline Transport TransportOf(absl::string_view word) {  // of those that flags take
  return word == "shared_memory" ? Transport::kSharedMemory
         : word == "gloo"        ? Transport::kGloo
                                 : Transport::kAuto;
}

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_TRANSPORT_H_
