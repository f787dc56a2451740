// What a command has around it: streams, the terminal, the clock, the way to a coordinator. A seam:
// tests run every command with string streams, a fake clock and a fake coordinator.

#ifndef CLIENT_CONTEXT_H_
#define CLIENT_CONTEXT_H_

#include <functional>
#include <istream>
#include <memory>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/control_client.h"
#include "kernels/base/clock.h"
#include "kernels/base/random.h"

namespace vitscale {

// Exit codes of `vitscale`.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;  // the job, or the operation, failed
inline constexpr int kExitUsage = 2;   // command line or job file
inline constexpr int kExitNotFound = 3;
inline constexpr int kExitUnavailable = 4;  // no coordinator
inline constexpr int kExitCancelled = 103;  // the job was cancelled
inline constexpr int kExitTimedOut = 124;

int ExitCodeOf(const absl::Status& status);
// Of a job that has ended: 0, 1 or 103.
int ExitCodeOf(v1::JobState state);

enum class OutputFormat { kTable, kWide, kJson, kYaml, kCsv };

struct Context {
  std::ostream& out;  // data
  std::ostream& err;  // messages
  std::istream& in;
  bool out_is_terminal = false;
  bool color = false;
  int columns = 100;  // of the terminal

  Clock& clock = RealClock();
  Random& random = SystemRandom();
  std::function<void(absl::Duration)> sleep = [](absl::Duration d) { absl::SleepFor(d); };
  std::function<std::string(const char*)> environment;  // "" where not set
  std::function<absl::StatusOr<std::unique_ptr<ControlClient>>(const std::string& address,
                                                               absl::Duration call_timeout)>
      connect;

  // Global flags.
  std::string address;                            // empty: ChooseAddress
  absl::Duration timeout = absl::ZeroDuration();  // zero: 30 s a call, no limit for waiting
  OutputFormat format = OutputFormat::kTable;

  // The coordinator: --address, VITSCALE_ADDRESS, the default Unix socket if it is there,
  // 127.0.0.1:7480.
  std::string ChooseAddress() const;
  absl::StatusOr<std::unique_ptr<ControlClient>> Connect() const;
  // When a waiting command gives up.
  absl::Time WaitDeadline() const;
  std::string RequestId() const;  // a random UUID
};

}  // namespace vitscale

#endif  // CLIENT_CONTEXT_H_
