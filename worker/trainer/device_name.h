// Names of devices. A worker's device is "cpu0" or "cuda3", as its lock is called; a backend calls
// the same "cpu" or "cuda:3"; the command line of vitscale-train takes cpu, cuda and cuda:<index>.

#ifndef WORKER_TRAINER_DEVICE_NAME_H_
#define WORKER_TRAINER_DEVICE_NAME_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/config/job_config.h"

namespace vitscale {

// The worker's device for rank `rank` of a run that no coordinator places. `flag` is cpu, cuda,
// cuda:<index> or empty: what the job wants, and cpu where it takes any. Without an index it is the
// rank's: cuda is cuda:0 for a run of one. INVALID_ARGUMENT for another word, and where the job
// wants the other kind.
absl::StatusOr<std::string> DeviceOfRank(absl::string_view flag, WantedDevice wanted, int rank);

// What the backend factory takes, for a job that wants `wanted`. Empty is a CPU. INVALID_ARGUMENT
// for another form, and for a device of the other kind.
absl::StatusOr<std::string> BackendDeviceOf(absl::string_view worker_device, WantedDevice wanted);

// Cards are counted as nvidia-smi does, by their place on the bus, not fastest first. Before
// anything of CUDA is loaded and before any thread is started.
void CountCardsByBus();

// Bytes of memory that a plan may use on a backend's device: the host's, or the card's as its
// driver tells them; 0: unknown.
int64_t DeviceMemoryBytes(absl::string_view backend_device);

}  // namespace vitscale

#endif  // WORKER_TRAINER_DEVICE_NAME_H_
