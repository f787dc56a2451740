// Child processes of a test: started in a group of their own, output in files, never left behind.

#ifndef TESTS_E2E_PROCESS_H_
#define TESTS_E2E_PROCESS_H_

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace vitscale {

struct CommandResult {
  int exit_code = -1;  // 128 + n for signal n; 124 when it was killed at the deadline
  std::string out;
  std::string err;
};

using Environment = std::map<std::string, std::string>;

// Runs a program to its end.
CommandResult RunCommand(const std::vector<std::string>& arguments, const Environment& environment,
                         absl::Duration deadline, const std::string& input = "");

// Starts a program in a session of its own; both outputs go to `log_path` (appended).
absl::StatusOr<pid_t> StartProgram(const std::vector<std::string>& arguments,
                                   const Environment& environment, const std::string& log_path);

// Reaps `pid` if it ends before the deadline; its wait status, or DEADLINE_EXCEEDED.
absl::StatusOr<int> WaitForExit(pid_t pid, absl::Duration deadline);

struct ProcessInfo {
  pid_t pid = 0;
  pid_t parent = 0;
  char state = '?';     // as in /proc/<pid>/stat; 'Z' is dead
  std::string program;  // base name of argv[0]
  std::string command;  // all arguments
};

// Living processes whose environment holds `name=value`: everything that a test's cluster has
// started, however deep, and nobody else's.
std::vector<ProcessInfo> ProcessesWithEnvironment(const std::string& name,
                                                  const std::string& value);

bool IsAlive(pid_t pid);

}  // namespace vitscale

#endif  // TESTS_E2E_PROCESS_H_
