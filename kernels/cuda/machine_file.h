// What was measured once and holds for one machine (a card, its driver, a library): lines of text
// in the state directory below a first line that says what they are and of which machine. Each line
// ends in a checksum: what does not have the right one is not there. Whoever cannot read one
// measures anew.

#ifndef KERNELS_CUDA_MACHINE_FILE_H_
#define KERNELS_CUDA_MACHINE_FILE_H_

#include <functional>
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

// Replaces it in one go, with its folder if that is missing, by what `merged` makes of the lines
// that it has. Processes that write at the same time do so one after another: none loses another's.
absl::Status UpdateMachineFile(
    const std::string& path, absl::string_view head,
    const std::function<std::vector<std::string>(const std::vector<std::string>& lines)>& merged);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_MACHINE_FILE_H_
