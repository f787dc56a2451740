// The command line of vitscaled, checked.

#ifndef SERVER_VITSCALED_FLAGS_H_
#define SERVER_VITSCALED_FLAGS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/base/net.h"
#include "server/core/options.h"

namespace vitscale {

struct ServerFlags {
  std::string state_dir;
  std::string socket;
  HostPort listen;
  HostPort metrics;
  bool insecure = false;
  bool reflection = true;
  std::string join_secret_file;
  std::string join_secret;  // its content; never logged
  std::string ready_file;

  int local_workers = 0;
  int local_threads = 1;
  std::string lock_dir;  // default: "locks" beside the socket
  std::string worker_program;
  std::vector<std::string> data_roots;
  std::vector<std::string> checkpoint_roots;
  std::vector<std::string> worker_flags;

  absl::Duration stop_grace;
  CoreOptions core;
};

// What the program does instead of running.
struct ServerFlagsExit {
  bool exit = false;
  int code = 0;
  std::string text;  // for standard output (code 0) or standard error
};

// INVALID_ARGUMENT, FAILED_PRECONDITION, NOT_FOUND for values that are wrong; `done` is filled for
// --help, --version and usage errors.
absl::StatusOr<ServerFlags> ParseServerFlags(int argc, const char* const* argv,
                                             ServerFlagsExit& done);

}  // namespace vitscale

#endif  // SERVER_VITSCALED_FLAGS_H_
