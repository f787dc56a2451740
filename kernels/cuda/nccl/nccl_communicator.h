// NCCL between one device of this process and those of others. Contract: kernels/communicator.h.
//
// - The communicator is a non-blocking one: no call waits for a peer. Calls and the stream are
//   asked again and again how far they are, for as long as nobody aborts; deadlines of operations
//   are the business of whoever waits for them, that of Connect is kept here.
// - Own stream, own order. Sums begin one after another without the host waiting between them. An
//   operation comes to the stream only when NCCL no longer says "in progress", so what is to follow
//   it on the stream is put there only then.
// - No call of the threads that wait can block: no synchronisation, no allocation after Connect.
// - It always ends by ncclCommAbort, also in good order: everything was exchanged then, and a
//   destroy waits for peers. Aborted means that the stream has drained too.
// - A device has one communicator of this process at a time, from Connect until it has ended
//   (device_claim.h): it alone is the group that must be aborted together, so there is no order of
//   aborts to get wrong. Connect of another one meanwhile is FAILED_PRECONDITION.
// - Ranks as threads have a device and a communicator each. Their aborts wait for nothing but their
//   own devices.

#ifndef KERNELS_CUDA_NCCL_NCCL_COMMUNICATOR_H_
#define KERNELS_CUDA_NCCL_NCCL_COMMUNICATOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/communicator.h"
#include "kernels/cuda/nccl/nccl_library.h"

namespace vitscale::cuda {

// As CreateCommunicator, with NCCL as it is found on this machine.
absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(
    const CommunicatorOptions& options);
absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(
    const CommunicatorOptions& options, const NcclLibrary& library);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_NCCL_NCCL_COMMUNICATOR_H_
