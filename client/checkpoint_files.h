// What the commands about checkpoints as files share: paths, and a line of progress.

#ifndef CLIENT_CHECKPOINT_FILES_H_
#define CLIENT_CHECKPOINT_FILES_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "client/context.h"
#include "worker/checkpoint/checkpoint_folder.h"

namespace vitscale {

// As the user wrote it, below the working directory.
absl::StatusOr<std::string> AbsolutePath(const std::string& path);

// See FindCheckpointFolder.
absl::StatusOr<CheckpointFolder> FindCheckpoint(const std::string& path);

// "reading  42 %" on a terminal, for what takes a while; nothing otherwise. The line is wiped at
// the end.
class PercentLine {
 public:
  PercentLine(Context& context, std::string verb) : context_(context), verb_(std::move(verb)) {}
  ~PercentLine();
  // Takes the bytes done and the bytes of all; null where there is no terminal.
  std::function<void(int64_t, int64_t)> Callback();

 private:
  Context& context_;
  const std::string verb_;
  int shown_ = -1;
};

}  // namespace vitscale

#endif  // CLIENT_CHECKPOINT_FILES_H_
