// The collective of a generation of one: same contract, same exchange, no wire. A step with one
// rank passes the same gate as a step with many.

#ifndef WORKER_COLLECTIVE_SINGLE_COLLECTIVE_H_
#define WORKER_COLLECTIVE_SINGLE_COLLECTIVE_H_

#include <memory>

#include "worker/collective/collective.h"

namespace vitscale {

std::unique_ptr<Collective> MakeSingleCollective();

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SINGLE_COLLECTIVE_H_
