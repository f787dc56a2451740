// What this machine's device can do, for the coordinator's scheduler.

#ifndef WORKER_AGENT_DEVICE_INFO_H_
#define WORKER_AGENT_DEVICE_INFO_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale::agent {

// `device` is "cpu<i>"; INVALID_ARGUMENT for another form, FAILED_PRECONDITION for a CPU without
// AVX2, UNIMPLEMENTED for "cuda<i>" (no CUDA backend is built). Library versions are the trainer's
// to tell (its numerics record): the agent links none of them.
absl::StatusOr<v1::DeviceInfo> DescribeDevice(absl::string_view device, int threads);

// "avx512_bf16", "avx512" or "avx2"; empty: less.
std::string BestInstructionSet();

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_DEVICE_INFO_H_
