#include "worker/bench/bench_collective.h"

#include <algorithm>
#include <utility>

#include "worker/collective/gloo_collective.h"
#include "worker/collective/shared_memory_collective.h"
#include "worker/collective/single_collective.h"

namespace vitscale {

std::unique_ptr<Collective> MakeBenchCollective(const std::string& transport, int rank, int ranks,
                                                RendezvousListener& listener) {
  if (ranks == 1) return MakeSingleCollective();
  MeetingOptions meeting;
  meeting.identity.secret = "vitscale-bench";
  meeting.rank = rank;
  meeting.world_size = ranks;
  meeting.rank0_address = listener.address();
  meeting.listener = rank == 0 ? &listener : nullptr;
  if (transport == "shared_memory") {
    SharedMemoryOptions shared;
    static_cast<MeetingOptions&>(shared) = std::move(meeting);
    return MakeSharedMemoryCollective(std::move(shared));
  }
  GlooOptions gloo;
  static_cast<MeetingOptions&>(gloo) = std::move(meeting);
  gloo.data_address = kBenchAddress;
  return MakeGlooCollective(std::move(gloo));
}

std::vector<double> Slowest(const std::vector<nlohmann::json>& ranks, const char* key) {
  std::vector<double> slowest;
  for (const nlohmann::json& rank : ranks) {
    slowest.resize(rank[key].size(), 0);
    for (size_t i = 0; i < slowest.size(); ++i)
      slowest[i] = std::max(slowest[i], rank[key][i].get<double>());
  }
  return slowest;
}

}  // namespace vitscale
