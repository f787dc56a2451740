// NCCL between threads and processes of one machine, each with a device of its own: the functions
// in use under their own names, and what tests may do to them. Ranks meet in a folder of temporary
// files.
//
// Only communicators that do not block exist, and an operation comes to its stream only when its
// rank has asked how far it is, twice: who goes on without asking computes with old values. Sums
// are made in rank order in f32. An operation runs once all ranks of the communicator have come to
// it in their streams; until then its stream stands still, as that of a device whose kernel spins.
//
// Wrong use is an error of the ranks that see it, though NCCL itself would hang or mix bytes:
// another size, type or kind than the other ranks, another operation before the last is in the
// stream, memory that is not the device's, one device twice. A communicator that is used after its
// abort aborts the test. Who is gone is noticed by nobody: NCCL does not tell between devices of
// one host.
//
// Not imitated: groups, more than one operation or communicator of a rank at a time, speed, and
// what NCCL allocates. The check of streams does not see sums: kernels count as touching whole
// arenas, of which buckets are parts. A sum that begins too early shows as old values.

#ifndef TESTS_CUDA_ON_CPU_NCCL_STANDIN_H_
#define TESTS_CUDA_ON_CPU_NCCL_STANDIN_H_

#include <string>

#include "kernels/cuda/nccl/nccl_library.h"

namespace vitscale::cuda_on_cpu {

// As LoadNccl would give it.
cuda::NcclLibrary NcclStandin();

// As from now on NCCL had noticed it in the newest communicator of `rank`: operations stand still.
void FailCommunicator(int rank, ncclResult_t error, const std::string& why);

// Aborts wait, as long as one of these exists; for ever where VITSCALE_NCCL_HUNG_ABORTS is set.
class HungAborts {
 public:
  HungAborts();
  ~HungAborts();
};

// VITSCALE_NCCL_LOSES_DEVICE="1 7" in the environment: NCCL finds the device of rank 1 lost when
// that rank asks for its 7th operation; "1 0": when it connects; "1 abort": nobody sees it before
// the communicator is aborted. As long as it is set, no stream can be made on that device any more.

struct NcclCounts {
  int made = 0, aborted = 0;  // communicators, ever
};
NcclCounts CountCommunicators();

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_NCCL_STANDIN_H_
