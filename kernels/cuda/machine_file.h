// What was measured once and holds for one machine (a card, its driver, a library): lines of text
// in the state directory below a first line that says what they are and of which machine. Whoever
// cannot read one measures anew.

#ifndef KERNELS_CUDA_MACHINE_FILE_H_
#define KERNELS_CUDA_MACHINE_FILE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale::cuda {

// <state directory>/<folder>/<hash of machine>.txt
std::string MachineFilePath(absl::string_view folder, absl::string_view machine);

// The lines below `head`; none where there is no file, or one that begins otherwise. Errors: of
// reading, and OUT_OF_RANGE for a file above 16 MiB.
absl::StatusOr<std::vector<std::string>> ReadMachineFile(const std::string& path,
                                                         absl::string_view head);

// Replaces it in one go, with its folder if that is missing. `lines` end in line breaks.
absl::Status WriteMachineFile(const std::string& path, absl::string_view head,
                              absl::string_view lines);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_MACHINE_FILE_H_
