// A trainer as a process: started in a session of its own, watched, killed as a group, reaped.
//
// Start must be called by a thread that lives as long as the agent: the kernel delivers the
// trainer's parent-death signal when the *thread* that started it ends. The program is exec'ed
// without fork (posix_spawn uses CLONE_VFORK), so the agent's threads and locks do not matter.
//
// The trainer gets: 0 /dev/null, 1 and 2 pipes, 3 its end of the link, 4 the device lock; nothing
// else. SIGTERM, SIGINT and SIGHUP are blocked in it from the first instruction on.

#ifndef WORKER_AGENT_TRAINER_PROCESS_H_
#define WORKER_AGENT_TRAINER_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/unique_fd.h"

namespace vitscale::agent {

class TrainerProcess {
 public:
  // Starts `program` with `arguments` (without argv[0]). `lock_fd` is inherited as descriptor 4.
  static absl::StatusOr<TrainerProcess> Start(const std::string& program,
                                              const std::vector<std::string>& arguments,
                                              int lock_fd);

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }    // readable when the process has ended
  int link() const { return link_.get(); }      // non-blocking
  int output() const { return output_.get(); }  // standard output, non-blocking
  int error() const { return error_.get(); }    // standard error, non-blocking
  void CloseLink() { link_.reset(); }
  void CloseOutput() { output_.reset(); }
  void CloseError() { error_.reset(); }

  // SIGKILL to the group.
  void KillGroup() const;
  // Exit code (128 + n for signal n) once the process has ended. The rest of its group is killed
  // first, while the process still holds the group's number.
  std::optional<int> Reap();
  // After Reap: no process of the group is left.
  bool GroupEmpty() const;

 private:
  TrainerProcess() = default;

  pid_t pid_ = 0;
  bool reaped_ = false;
  UniqueFd pidfd_, link_, output_, error_;
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_TRAINER_PROCESS_H_
