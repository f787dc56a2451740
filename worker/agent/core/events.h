// What happens to an agent, and what it does about it: input and output of AgentCore.
//
// The shell (worker/agent/agent.h) turns gRPC, the socket pair, processes, files and signals into
// events, and carries out actions in order. Sessions and trainers are numbered by the core: an
// event of a former one is ignored.

#ifndef WORKER_AGENT_CORE_EVENTS_H_
#define WORKER_AGENT_CORE_EVENTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "kernels/base/log.h"
#include "worker/link/messages.h"

namespace vitscale::agent {

// ---- events ------------------------------------------------------------------

struct Tick {};

// The coordinator has taken this life of the agent.
struct Registered {
  int64_t session = 0;
  std::string credential;
  int64_t term = 0;
  absl::Duration heartbeat;
  absl::Duration lease;
  absl::Duration orphan_window;
};

enum class SessionError {
  kUnavailable,    // nobody there, or the stream broke: try again later
  kRefused,        // the credential is not known (a restarted coordinator): register again
  kFenced,         // a newer life of this worker is registered: this one must end
  kConfiguration,  // other protocol version, wrong join secret, bad worker id: trying again does
                   // not help
};

// Registration or stream ended.
struct SessionFailed {
  int64_t session = 0;
  SessionError error = SessionError::kUnavailable;
  std::string message;
};

// One message of the coordinator.
struct CoordinatorSays {
  int64_t session = 0;
  int64_t term = 0;
  int64_t acknowledged_message = 0;
  std::optional<link::DesiredState> desired;
  int64_t acknowledged_record = 0;
};

struct TrainerStarted {
  int64_t trainer = 0;
  int64_t pid = 0;
};

struct TrainerStartFailed {
  int64_t trainer = 0;
  std::string error;
};

struct TrainerReported {
  int64_t trainer = 0;
  link::TrainerReport report;
};

// The socket pair ended; `garbage` says that what came was no message.
struct TrainerLinkEnded {
  int64_t trainer = 0;
  bool garbage = false;
  std::string reason;
};

// The process is reaped and its output read to the end.
struct TrainerReaped {
  int64_t trainer = 0;
  int exit_code = 0;  // 128 + n for a signal
};

// No process of the trainer's group is left: the device is free.
struct TrainerGroupEmpty {
  int64_t trainer = 0;
};

// A line that the trainer wrote to standard output or error.
struct TrainerOutput {
  int64_t trainer = 0;
  std::string text;
};

// What the spool holds, after every change of it.
struct SpoolChanged {
  int64_t unacknowledged = 0;  // records
  bool unsent = false;         // some were not handed to the present session yet
  bool on_disk = true;         // all that were given to it
};

// What the driver says of the card, after every change of it; `dirty` as if no trainer of ours ran
// there.
struct DeviceSeen {
  link::DeviceUse use;
};

// SIGTERM or SIGINT. The second one does not wait.
struct ShutdownRequested {};

using Event =
    std::variant<Tick, Registered, SessionFailed, CoordinatorSays, TrainerStarted,
                 TrainerStartFailed, TrainerReported, TrainerLinkEnded, TrainerReaped,
                 TrainerGroupEmpty, TrainerOutput, SpoolChanged, DeviceSeen, ShutdownRequested>;

// ---- actions -----------------------------------------------------------------

struct Register {
  int64_t session = 0;
};

// Opens the stream; messages may be sent at once.
struct OpenSession {
  int64_t session = 0;
  std::string credential;
};

struct CloseSession {
  int64_t session = 0;
};

// The shell adds unsent records of the spool.
struct SendMessage {
  int64_t session = 0;
  int64_t term = 0;
  int64_t number = 0;
  link::ObservedState observed;
};

struct StartTrainer {
  int64_t trainer = 0;
  std::string job_id;
  int64_t attempt = 0;
};

struct SendOrder {
  int64_t trainer = 0;
  link::TrainerOrder order;
};

// SIGKILL to the process group.
struct KillTrainer {
  int64_t trainer = 0;
};

// To disk; times that are the epoch are filled with the wall clock.
struct SpoolRecords {
  std::vector<link::SpooledRecord> records;
};

struct AcknowledgeSpool {
  int64_t number = 0;
};

struct LogText {
  LogLevel level = LogLevel::INFO;
  std::string text;
};

// The last action. `code` is the exit code of the program.
struct ExitAgent {
  int code = 0;
  std::string why;
};

using Action =
    std::variant<Register, OpenSession, CloseSession, SendMessage, StartTrainer, SendOrder,
                 KillTrainer, SpoolRecords, AcknowledgeSpool, LogText, ExitAgent>;

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_CORE_EVENTS_H_
