// What this machine's device can do, for the coordinator's scheduler.

#ifndef WORKER_AGENT_DEVICE_INFO_H_
#define WORKER_AGENT_DEVICE_INFO_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vitscale/v1/job.pb.h"
#include "worker/card/nvml.h"

namespace vitscale::agent {

// The card that `device` names, counted as nvidia-smi does: 3 for "cuda3"; none for "cpu<i>".
// INVALID_ARGUMENT for another form.
absl::StatusOr<std::optional<int>> CardIndexOf(absl::string_view device);

// A CPU, `device` being "cpu<i>". FAILED_PRECONDITION for one without AVX2. Library versions are
// the trainer's to tell (its numerics record): the agent links none of them.
absl::StatusOr<v1::DeviceInfo> DescribeCpu(absl::string_view device, int threads);

// `device` is "cuda<i>". FAILED_PRECONDITION for a card that the kernels are not made for,
// and for one that is divided.
absl::StatusOr<v1::DeviceInfo> DescribeCard(absl::string_view device, const Card& card,
                                            int threads);

// "avx512_bf16", "avx512" or "avx2"; empty: less.
std::string BestInstructionSet();

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_DEVICE_INFO_H_
