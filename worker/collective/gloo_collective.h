// Collectives between CPU workers: Gloo over TCP, with a rendezvous, an abort and deadlines that
// Gloo lacks.
//
// - Sums: gloo::allreduce, algorithm RING. It gives the same bits on every rank for any number of
//   ranks; the older class AllreduceRing does not from 3 ranks on.
// - Rendezvous: every rank connects to rank 0's listener, proves the generation's secret and hands
//   in the addresses of its sockets; rank 0 answers with those of all. No store, no file, no
//   coordinator.
// - Abort: Gloo 0.5 has none (Context::closeConnections wakes nobody). The mesh keeps a duplicate
//   of every socket of its context and shuts them down: each wait on them, here and at the peers,
//   ends at once.
// - Sockets are bound to the interface of `data_address` and nowhere else.
//
// The process must ignore SIGPIPE: writing to a dead peer's socket raises it.

#ifndef WORKER_COLLECTIVE_GLOO_COLLECTIVE_H_
#define WORKER_COLLECTIVE_GLOO_COLLECTIVE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "worker/collective/collective.h"
#include "worker/collective/rendezvous.h"
#include "worker/collective/wire.h"

namespace vitscale {

struct GlooOptions : MeetingOptions {
  std::string data_address;  // host or IP of the own data-plane interface; sockets bind to it
};

// Nothing is opened before Connect.
std::unique_ptr<Collective> MakeGlooCollective(GlooOptions options);
// What it is made of.
std::unique_ptr<Wire> MakeGlooWire(GlooOptions options);

// "Gloo 0.5.0": part of the numeric class.
std::string GlooVersion();

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_GLOO_COLLECTIVE_H_
