// Ranks of one generation that meet on loopback and sum on devices of their own.

#ifndef TESTS_CUDA_ON_CPU_NCCL_NCCL_GANG_H_
#define TESTS_CUDA_ON_CPU_NCCL_NCCL_GANG_H_

#include <functional>
#include <memory>
#include <utility>

#include "tests/cuda_on_cpu/nccl/device_ranks.h"
#include "worker/collective/nccl_collective.h"

namespace vitscale::cuda {

inline constexpr absl::Duration kLong = absl::Minutes(5);

class NcclGang {
 public:
  explicit NcclGang(int size) : size_(size) {
    identity_.secret = "a secret of this generation";
    identity_.attempt = 1;
    listener_ = RendezvousListener::Open("127.0.0.1").value();
  }

  std::unique_ptr<Collective> Make(int rank, int64_t generation,
                                   std::unique_ptr<Communicator> communicator) const {
    GlooOptions options;
    options.identity = identity_;
    options.identity.generation = generation;
    options.rank = rank;
    options.world_size = size_;
    options.rank0_address = listener_->address();
    options.listener = listener_.get();
    options.data_address = "127.0.0.1";
    return MakeNcclCollective(std::move(options), std::move(communicator));
  }
  std::unique_ptr<Collective> Make(int rank, int64_t generation = 1) const {
    return Make(rank, generation, MakeCommunicator(rank));
  }

  // `body` on every rank of a connected collective.
  void Run(const std::function<void(Collective&)>& body, int64_t generation = 1) const {
    OnThreads(size_, [&](int rank) {
      const auto collective = Make(rank, generation);
      const absl::Status connected = collective->Connect(kLong);
      VITSCALE_CHECK(connected.ok()) << connected.ToString();
      body(*collective);
    });
  }

 private:
  const int size_;
  RendezvousIdentity identity_;
  std::unique_ptr<RendezvousListener> listener_;
};

inline ControlRecord RecordOf(const Collective& collective, int64_t step = 1) {
  ControlRecord record;
  record.rank = collective.rank();
  record.world_size = collective.world_size();
  record.step = step;
  return record;
}

}  // namespace vitscale::cuda

#endif  // TESTS_CUDA_ON_CPU_NCCL_NCCL_GANG_H_
