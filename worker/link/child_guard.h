// What a trainer does first in its main, so that it can never outlive its agent.
//
//   int main(int argc, char** argv) {
//     link::BlockOrdersBySignal();                       // before any thread starts
//     … link::ArmParentDeath(*link::PeerPid(link_fd)) …  // dies with the agent
//     link::WatchLink(link_fd);                          // and on end of file of the socket pair
//
// Three nets, because each has a hole: PDEATHSIG is not delivered when the agent died before prctl
// (hence the comparison of getppid), and is lost in a set-user-id exec; end of file does not come
// while some other process still holds the agent's end.

#ifndef WORKER_LINK_CHILD_GUARD_H_
#define WORKER_LINK_CHILD_GUARD_H_

#include <sys/types.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vitscale::link {

// Ignores SIGPIPE and blocks SIGTERM, SIGINT and SIGHUP in this thread and all it starts: a trainer
// takes orders from its link only (a Ctrl-C of a terminal or a service manager's SIGTERM to the
// group must not cut a checkpoint).
void BlockOrdersBySignal();

// The process that made the socket pair of which `link_fd` is an end: the agent. UNAVAILABLE: not a
// socket.
absl::StatusOr<pid_t> PeerPid(int link_fd);

// Asks the kernel for SIGKILL when the thread that started this process ends, then checks that the
// parent is `expected_parent`. FAILED_PRECONDITION: it is not (the agent died meanwhile): the
// caller returns from main.
absl::Status ArmParentDeath(pid_t expected_parent);

// Starts a detached thread that ends the process (_exit, code 85) as soon as the peer of `link_fd`
// hangs up. It reads nothing, takes no lock, and works while another thread is blocked in Receive
// or in a device call.
void WatchLink(int link_fd);

}  // namespace vitscale::link

#endif  // WORKER_LINK_CHILD_GUARD_H_
