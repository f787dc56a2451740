// Whether every checkpoint with a manifest below a folder is whole.

#ifndef TESTS_E2E_VERIFY_CHECKPOINTS_H_
#define TESTS_E2E_VERIFY_CHECKPOINTS_H_

#include <string>

#include "absl/status/status.h"

namespace vitscale {

// OK if each folder with a manifest.json holds the files that it lists with their sizes and CRC32C;
// DATA_LOSS names the first that does not. Folders without a manifest are unfinished saves and do
// not count.
absl::Status VerifyCheckpoints(const std::string& root);

}  // namespace vitscale

#endif  // TESTS_E2E_VERIFY_CHECKPOINTS_H_
