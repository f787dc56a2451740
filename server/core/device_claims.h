// What an agent says of its device, held against what can be: it decides plans and placements, is
// stored, and ends on terminals.

#ifndef SERVER_CORE_DEVICE_CLAIMS_H_
#define SERVER_CORE_DEVICE_CLAIMS_H_

#include "absl/status/status.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale {

// At registration. INVALID_ARGUMENT naming the field: a kind other than cpu and cuda, numbers that
// cannot be, a text that is longer than 256 bytes or has control characters.
absl::Status CheckDevice(const v1::DeviceInfo& device);

// In a report, which is not refused for it: numbers below zero become zero, `dirty` is cut and gets
// '?' for control characters.
void CleanDeviceUse(v1::DeviceUse& use);

}  // namespace vitscale

#endif  // SERVER_CORE_DEVICE_CLAIMS_H_
