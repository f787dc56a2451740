// The command line of vitscale-worker, checked.

#ifndef WORKER_AGENT_FLAGS_H_
#define WORKER_AGENT_FLAGS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/base/net.h"

namespace vitscale::agent {

struct Flags {
  Address coordinator;
  std::string device = "cpu0";  // or "cuda<i>"
  double peak_tflops = 0;       // of the card; 0: as its data sheet says
  int threads = 1;
  std::string worker_id;  // default "<host>-<device>"
  std::string host;
  std::string state_dir;  // default <state>/workers/<worker id>
  std::string lock_dir;
  std::vector<std::string> data_roots;        // absolute, symlinks resolved
  std::vector<std::string> checkpoint_roots;  // absolute, symlinks resolved
  HostPort metrics;                           // port 0: any
  std::string data_address = "127.0.0.1";
  std::string join_secret;      // content of the file; never logged
  std::string trainer;          // absolute path
  std::string instruction_set;  // highest to use; empty: best
  std::string faults;
  int protocol_version = 1;  // tests claim another one
  bool insecure = false;
  absl::Duration lock_wait, grace, drain_grace, kill_interval, silence_max;
};

// What the program does instead of running.
struct FlagsExit {
  int code = 0;
  std::string text;  // for standard output (code 0) or standard error
};

// INVALID_ARGUMENT, NOT_FOUND, … for values that are wrong; `done` is filled for --help, --version
// and usage errors.
absl::StatusOr<Flags> ParseFlags(int argc, char** argv, FlagsExit& done);

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_FLAGS_H_
