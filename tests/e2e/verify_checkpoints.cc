#include "tests/e2e/verify_checkpoints.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {

absl::Status VerifyCheckpoints(const std::string& root) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().filename() != "manifest.json") continue;
    const std::filesystem::path job = entry.path().parent_path().parent_path();
    VITSCALE_ASSIGN_OR_RETURN(CheckpointStore store,
                              CheckpointStore::Open(PosixFileSystem(), job.parent_path().string(),
                                                    job.filename().string()));
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<CheckpointEntry> usable, store.Usable());
    if (usable.empty())
      return absl::DataLossError(absl::StrCat(job.string(), ": no checkpoint is usable"));
    for (const CheckpointEntry& checkpoint : usable) {
      VITSCALE_RETURN_IF_ERROR(store.Verify(checkpoint.manifest.name));
    }
  }
  return absl::OkStatus();
}

}  // namespace vitscale
