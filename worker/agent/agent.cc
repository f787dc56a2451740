#include "worker/agent/agent.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "vitscale/v1/job_spec.pb.h"
#include "worker/agent/card_watch.h"
#include "worker/link/codec.h"
#include "worker/link/codec_messages.h"

namespace vitscale::agent {
namespace {

constexpr int64_t kRecordBytesPerMessage = 1 << 20;
constexpr size_t kOrderBytesMax = 4 << 20;
constexpr size_t kReadBytes = 64 << 10;
constexpr int kReadsAtOnce = 16;  // of one source, before the others get their turn
constexpr absl::Duration kGroupCheckInterval = absl::Milliseconds(100);

std::string JobName(const link::DesiredState& desired) {
  v1::JobSpec spec;
  if (!spec.ParseFromString(desired.spec_bytes) || spec.name().empty()) return "unnamed";
  return spec.name();
}

}  // namespace

Agent::Agent(AgentConfig config, Clock& clock, Random& jitter, Spool& spool, AgentMetrics& metrics,
             EventQueue& queue)
    : config_(std::move(config)),
      clock_(clock),
      spool_(spool),
      metrics_(metrics),
      queue_(queue),
      core_(config_.core, jitter) {}

CoordinatorSink Agent::Sink() {
  return {[this](Event event) {
            queue_.Post([this, event = std::move(event)]() mutable {
              events_.push_back(std::move(event));
            });
          },
          [this] { queue_.Post([this] { SendIfPossible(); }); }};
}

void Agent::SeeCard(const absl::StatusOr<Card>& card) {
  queue_.Post([this, card] {
    const int64_t trainer = trainer_ && !trainer_->group_empty ? trainer_->process.pid() : 0;
    events_.push_back(DeviceSeen{DeviceUseOf(
        card, trainer, [](int64_t pid) -> int64_t { return getpgid(static_cast<pid_t>(pid)); })});
  });
}

int Agent::Run(CoordinatorLink& coordinator, int stop_fd) {
  coordinator_ = &coordinator;
  TellSpool();
  while (!exit_) {
    if (events_.empty()) events_.push_back(Tick{});
    while (!events_.empty() && !exit_) {
      Event event = std::move(events_.front());
      events_.pop_front();
      Feed(std::move(event));
    }
    ShowState();
    if (!exit_) Wait(stop_fd);
  }
  if (exit_->code == 0) coordinator.Finish(absl::Seconds(1));
  return exit_->code;
}

void Agent::Feed(Event event) {
  for (const Action& action : core_.Handle(event, clock_.Monotonic())) {
    std::visit([this](const auto& a) { Execute(a); }, action);
  }
}

// ---- waiting -----------------------------------------------------------------

absl::Duration Agent::UntilNext() const {
  const absl::Time now = clock_.Monotonic();
  absl::Duration wait = std::min(core_.NextDeadline() - now, next_watchdog_ - now);
  if (trainer_ && trainer_->reaped && !trainer_->group_empty) {
    wait = std::min(wait, kGroupCheckInterval);
  }
  return std::max(wait, absl::ZeroDuration());
}

void Agent::Wait(int stop_fd) {
  pollfd entries[6] = {{queue_.fd(), POLLIN, 0}, {stop_fd, POLLIN, 0}};
  pollfd &link = entries[2], &output = entries[3], &error = entries[4], &ended = entries[5];
  link = output = error = ended = {-1, 0, 0};
  if (trainer_ && !trainer_->reaped) {
    link.fd = trainer_->process.link();
    link.events = static_cast<short>(POLLIN | (trainer_->orders.empty() ? 0 : POLLOUT));
    output = {output_open_ ? trainer_->process.output() : -1, POLLIN, 0};
    error = {error_open_ ? trainer_->process.error() : -1, POLLIN, 0};
    ended = {trainer_->process.pidfd(), POLLIN, 0};
  }
  const absl::Duration wait = UntilNext();
  const int millis = static_cast<int>(std::min<int64_t>(
      absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1))), 60'000));
  if (poll(entries, std::size(entries), millis) < 0 && errno != EINTR) {
    VITSCALE_CHECK(false) << ErrnoStatus(errno, "poll").message();
  }
  if (entries[0].revents != 0) {
    for (const auto& work : queue_.Take()) work();
  }
  if (entries[1].revents != 0) ReadSignals(stop_fd);
  if (link.revents & POLLOUT) WriteOrders();
  if (link.revents & (POLLIN | POLLHUP | POLLERR)) ReadLink();
  if (output.revents != 0) ReadOutput(output.fd, trainer_->output, output_open_);
  if (error.revents != 0) ReadOutput(error.fd, trainer_->error, error_open_);
  if (trainer_) CheckProcess();
  if (const absl::Time now = clock_.Monotonic(); now >= next_watchdog_) {
    config_.watchdog();
    next_watchdog_ = now + config_.watchdog_interval;
  }
}

void Agent::ReadSignals(int stop_fd) {
  signalfd_siginfo info;
  while (read(stop_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    VITSCALE_LOG(INFO) << "SIG" << sigabbrev_np(static_cast<int>(info.ssi_signo)) << ": leaving";
    events_.push_back(ShutdownRequested{});
  }
}

// ---- coordinator -------------------------------------------------------------

void Agent::Execute(const Register& action) { coordinator_->Register(action.session); }

void Agent::Execute(const OpenSession& action) {
  spool_.Rewind();
  unsent_message_.reset();
  coordinator_->Open(action.session, action.credential);
  TellSpool();
}

void Agent::Execute(const CloseSession& action) { coordinator_->Close(action.session); }

void Agent::Execute(const SendMessage& action) {
  unsent_message_ = action;
  SendIfPossible();
}

void Agent::SendIfPossible() {
  if (!unsent_message_ || !coordinator_->CanSend(unsent_message_->session)) return;
  v1::AgentMessage message;
  message.set_term(unsent_message_->term);
  message.set_message_number(unsent_message_->number);
  link::ToProto(unsent_message_->observed, message.mutable_observed());
  for (absl::string_view bytes : spool_.TakeUnsent(kRecordBytesPerMessage)) {
    if (!message.add_records()->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
      message.mutable_records()->RemoveLast();
    }
  }
  message.set_sent_seconds(absl::ToDoubleSeconds(clock_.Monotonic() - absl::UnixEpoch()));
  coordinator_->Send(unsent_message_->session, message);
  unsent_message_.reset();
  if (message.records_size() > 0) TellSpool();
}

void Agent::Execute(const AcknowledgeSpool& action) {
  spool_.Acknowledge(action.number);
  TellSpool();
}

void Agent::Execute(const SpoolRecords& action) {
  std::vector<link::SpooledRecord> records = action.records;
  const absl::Time now = clock_.Now();
  for (link::SpooledRecord& record : records) {
    auto* line = std::get_if<link::LogLine>(&record.record);
    auto* event = std::get_if<link::Event>(&record.record);
    if (line != nullptr && line->time == absl::UnixEpoch()) line->time = now;
    if (event != nullptr && event->time == absl::UnixEpoch()) event->time = now;
  }
  const absl::Status status = spool_.Append(std::move(records));
  if (!status.ok() && !disk_failed_) {
    VITSCALE_LOG(WARNING) << "spool: " << status.message()
                          << "; records stay in memory until it works";
  }
  disk_failed_ = !status.ok();
  TellSpool();
}

void Agent::TellSpool() {
  events_.push_back(SpoolChanged{spool_.unacknowledged(), spool_.HasUnsent(), spool_.on_disk()});
}

// ---- trainer -----------------------------------------------------------------

void Agent::Execute(const StartTrainer& action) {
  trainer_.reset();
  auto process = TrainerProcess::Start(
      config_.trainer_program, {absl::StrCat("--link-fd=", link::kTrainerLinkFd)}, config_.lock_fd);
  if (!process.ok()) {
    events_.push_back(TrainerStartFailed{action.trainer, std::string(process.status().message())});
    return;
  }
  VITSCALE_LOG(INFO) << "trainer of job " << action.job_id << " attempt " << action.attempt
                     << " is process " << process->pid();
  trainer_.emplace(Running{action.trainer, *std::move(process)});
  output_open_ = error_open_ = true;
  metrics_.TrainerStarted(JobName(core_.desired()), core_.desired().rank);
  events_.push_back(TrainerStarted{action.trainer, trainer_->process.pid()});
}

void Agent::Execute(const SendOrder& action) {
  if (!trainer_ || trainer_->number != action.trainer || trainer_->process.link() < 0) return;
  // A trainer that does not read misses repetitions; it gets the newest state when it reads again.
  if (trainer_->orders.size() > kOrderBytesMax) return;
  trainer_->orders += link::EncodeFrame(link::EncodeOrder(action.order));
  WriteOrders();
}

void Agent::WriteOrders() {
  std::string& orders = trainer_->orders;
  while (!orders.empty()) {
    const ssize_t written =
        send(trainer_->process.link(), orders.data(), orders.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (written < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) orders.clear();  // the reader will see the end
      return;
    }
    orders.erase(0, static_cast<size_t>(written));
  }
}

void Agent::Execute(const KillTrainer& action) {
  if (trainer_ && trainer_->number == action.trainer && !trainer_->group_empty) {
    trainer_->process.KillGroup();
  }
}

void Agent::ReadLink() {
  std::string chunk(kReadBytes, '\0');
  for (int i = 0; i < kReadsAtOnce && trainer_->process.link() >= 0; ++i) {
    const ssize_t got = recv(trainer_->process.link(), chunk.data(), chunk.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got <= 0) return EndLink(false, got == 0 ? "end of stream" : "connection lost");
    trainer_->frames.Append({chunk.data(), static_cast<size_t>(got)});
    for (;;) {
      auto frame = trainer_->frames.Next();
      if (!frame.ok()) return EndLink(true, std::string(frame.status().message()));
      if (!frame->has_value()) break;
      const auto report = link::DecodeReport(**frame);
      if (!report.ok()) return EndLink(true, std::string(report.status().message()));
      TakeReport(*report);
    }
  }
}

void Agent::EndLink(bool garbage, const std::string& reason) {
  trainer_->process.CloseLink();
  trainer_->orders.clear();
  events_.push_back(TrainerLinkEnded{trainer_->number, garbage, reason});
}

void Agent::TakeReport(const link::TrainerReport& report) {
  if (report.metrics) metrics_.Update(*report.metrics);
  for (const link::SpooledRecord& record : report.records) {
    if (const auto* step = std::get_if<link::StepRecord>(&record.record)) metrics_.AddStep(*step);
  }
  events_.push_back(TrainerReported{trainer_->number, report});
}

void Agent::ReadOutput(int fd, LineSplitter& lines, bool& open) {
  std::string chunk(kReadBytes, '\0');
  for (int i = 0; i < kReadsAtOnce; ++i) {
    const ssize_t got = read(fd, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got <= 0) {
      open = false;
      return;
    }
    PostLines(lines.Add({chunk.data(), static_cast<size_t>(got)}));
  }
}

void Agent::PostLines(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) events_.push_back(TrainerOutput{trainer_->number, line});
}

// The last lines are the most interesting ones: all that is in the pipes is read before the end is
// told.
void Agent::ReadAllOutput() {
  if (output_open_) ReadOutput(trainer_->process.output(), trainer_->output, output_open_);
  if (error_open_) ReadOutput(trainer_->process.error(), trainer_->error, error_open_);
  PostLines(trainer_->output.Flush());
  PostLines(trainer_->error.Flush());
}

void Agent::CheckProcess() {
  if (!trainer_->reaped) {
    const std::optional<int> exit_code = trainer_->process.Reap();
    if (!exit_code) return;
    trainer_->reaped = true;
    if (trainer_->process.link() >= 0) ReadLink();
    ReadAllOutput();
    metrics_.TrainerExited(*exit_code);
    events_.push_back(TrainerReaped{trainer_->number, *exit_code});
  }
  if (!trainer_->group_empty && trainer_->process.GroupEmpty()) {
    trainer_->group_empty = true;
    events_.push_back(TrainerGroupEmpty{trainer_->number});
  }
}

// ---- telling -----------------------------------------------------------------

void Agent::Execute(const LogText& action) {
  switch (action.level) {
    case LogLevel::INFO:
      VITSCALE_LOG(INFO) << action.text;
      break;
    case LogLevel::WARNING:
      VITSCALE_LOG(WARNING) << action.text;
      break;
    case LogLevel::ERROR:
      VITSCALE_LOG(ERROR) << action.text;
      break;
  }
}

void Agent::Execute(const ExitAgent& action) { exit_ = action; }

void Agent::ShowState() {
  const link::ObservedState observed = core_.Observed();
  const SessionState& session = core_.session();
  const absl::Duration left = session.owned_since() + session.orphan_window() - clock_.Monotonic();
  WorkerGauges gauges;
  gauges.connected = session.heard();
  gauges.term = session.term();
  gauges.ownership_seconds = std::max(0.0, absl::ToDoubleSeconds(left));
  gauges.spool_records = spool_.unacknowledged();
  gauges.spool_bytes = spool_.bytes();
  gauges.spool_dropped = spool_.dropped();
  gauges.stage = observed.stage;
  if (observed.numerics) gauges.precision = observed.numerics->precision;
  gauges.device_use = observed.device_use;
  metrics_.SetWorker(gauges);
  if (observed.job_id.empty()) metrics_.Clear();
  std::string status =
      absl::StrCat(session.heard() ? "connected" : "no coordinator", ", ",
                   observed.job_id.empty() ? "idle" : absl::StrCat("job ", observed.job_id), " ",
                   link::StageName(observed.stage), observed.draining ? ", leaving" : "");
  if (status == shown_status_) return;
  shown_status_ = status;
  config_.status(status);
}

}  // namespace vitscale::agent
