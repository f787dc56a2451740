// systemd's notification protocol (sd_notify(3)), without its library: one datagram to
// $NOTIFY_SOCKET.

#ifndef WORKER_AGENT_NOTIFY_H_
#define WORKER_AGENT_NOTIFY_H_

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace vitscale::agent {

// "READY=1", "STATUS=…", "STOPPING=1", "WATCHDOG=1". Does nothing outside systemd; never fails.
void NotifySystemd(absl::string_view message);

// Half of $WATCHDOG_USEC; infinite where no watchdog is set.
absl::Duration SystemdWatchdogInterval();

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_NOTIFY_H_
