// Ranks as threads of the test, each with a device and a communicator of its own.

#ifndef TESTS_CUDA_ON_CPU_NCCL_DEVICE_RANKS_H_
#define TESTS_CUDA_ON_CPU_NCCL_DEVICE_RANKS_H_

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/nccl/nccl_communicator.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/nccl_standin.h"

namespace vitscale::cuda {

inline constexpr int kDevices = 3;

// On cuda:<rank>, through the stand-in.
inline std::unique_ptr<Communicator> MakeCommunicator(
    int rank, absl::Duration abort_timeout = absl::Minutes(10),
    std::function<void()> on_abort_hung = [] { std::abort(); }) {
  cuda_on_cpu::SetDeviceCount(kDevices);
  auto made =
      CreateNcclCommunicator({absl::StrCat("cuda:", rank), abort_timeout, std::move(on_abort_hung)},
                             cuda_on_cpu::NcclStandin());
  VITSCALE_CHECK(made.ok()) << made.status().ToString();
  return *std::move(made);
}

// `body` for every rank, in a thread whose device is that of the rank.
inline void OnThreads(int ranks, const std::function<void(int rank)>& body) {
  cuda_on_cpu::SetDeviceCount(kDevices);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([rank, &body] {
      VITSCALE_CHECK(cudaSetDevice(rank) == cudaSuccess);
      body(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace vitscale::cuda

#endif  // TESTS_CUDA_ON_CPU_NCCL_DEVICE_RANKS_H_
