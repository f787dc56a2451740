// systemd's notification protocol (sd_notify(3)) without its library: one datagram to
// $NOTIFY_SOCKET.

#ifndef KERNELS_BASE_SYSTEMD_H_
#define KERNELS_BASE_SYSTEMD_H_

#include <string>

#include "absl/time/time.h"

namespace vitscale {

// "READY=1", "STOPPING=1", "STATUS=…", "WATCHDOG=1". Does nothing where systemd is not there; never
// fails.
void NotifySystemd(const std::string& message);

// Half of $WATCHDOG_USEC; infinite where no watchdog is set.
absl::Duration SystemdWatchdogInterval();

}  // namespace vitscale

#endif  // KERNELS_BASE_SYSTEMD_H_
