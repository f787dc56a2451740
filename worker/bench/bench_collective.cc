#include "worker/bench/bench_collective.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/communicator.h"
#include "worker/collective/gloo_collective.h"
#include "worker/collective/nccl_collective.h"
#include "worker/collective/shared_memory_collective.h"
#include "worker/collective/single_collective.h"

namespace vitscale {
namespace {

absl::StatusOr<std::unique_ptr<Communicator>> MakeBenchCommunicator(const std::string& device) {
  CommunicatorOptions options;
  options.device = device;
  options.on_abort_hung = [] {
    VITSCALE_LOG(ERROR) << "the abort of a sum between cards hangs: this rank ends";
    _exit(1);
  };
  return CreateCommunicator(options);
}

}  // namespace

std::string BenchDeviceOf(const std::string& transport, int rank) {
  return transport == "nccl" ? absl::StrCat("cuda:", rank) : "cpu";
}

absl::StatusOr<std::unique_ptr<Collective>> MakeBenchCollective(const std::string& transport,
                                                                int rank, int ranks,
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
  if (transport == "nccl") {
    VITSCALE_ASSIGN_OR_RETURN(auto communicator,
                              MakeBenchCommunicator(BenchDeviceOf(transport, rank)));
    return MakeNcclCollective(std::move(gloo), std::move(communicator));
  }
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
