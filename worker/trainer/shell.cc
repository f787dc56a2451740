#include "worker/trainer/shell.h"

#include <algorithm>
#include <utility>

#include "kernels/base/await.h"
#include "kernels/base/log.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr absl::Duration kReportEvery = absl::Seconds(1);          // even if nothing changed
constexpr absl::Duration kProgressEvery = absl::Milliseconds(50);  // if only steps went on

bool IsOperation(const Action& action) {
  return !std::holds_alternative<AbortNote>(action) &&
         !std::holds_alternative<DropCollectiveNote>(action) &&
         !std::holds_alternative<WriteManifestNote>(action) &&
         !std::holds_alternative<AbandonSaveNote>(action) &&
         !std::holds_alternative<EmitNote>(action) && !std::holds_alternative<ExitNote>(action);
}

// True if the two differ in more than how far training has come.
bool DiffersInMoreThanProgress(link::ObservedState a, const link::ObservedState& b) {
  a.step = b.step;
  a.committed_step = b.committed_step;
  a.version = b.version;
  return !(a == b);
}

}  // namespace

TrainerShell::TrainerShell(ShellOptions options)
    : options_(std::move(options)),
      last_report_(options_.clock->Monotonic() - kReportEvery),
      step_thread_([this] { RunOperations(); }) {}

TrainerShell::~TrainerShell() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (engine_) engine_->Abort();
  step_thread_.join();
  engine_.reset();  // its checkpoint writer posts to the queue below, which goes first otherwise
}

void TrainerShell::Post(CoreEvent event) {
  absl::MutexLock lock(&mutex_);
  events_.push_back(std::move(event));
}

int TrainerShell::Run() {
  while (!exit_code_) {
    const absl::Time now = options_.clock->Monotonic();
    const absl::Time report_due = last_report_ + (records_.empty() ? kReportEvery : kProgressEvery);
    const CoreEvent event = NextEvent(std::min(core_.NextDeadline(), std::max(now, report_due)));
    if (const auto* order = std::get_if<OrderEvent>(&event);
        order && order->order.setup && !engine_) {
      engine_ = std::make_unique<Engine>(EngineOptions{
          .setup = *order->order.setup,
          .data_port = options_.data_port,
          .bucket_bytes = options_.bucket_bytes,
          .transport = options_.transport,
          .pretended_host = options_.pretended_host,
          .by_hand = options_.by_hand,
          .clock = options_.clock,
          .fs = options_.fs,
          .post = [this](CoreEvent outcome) { Post(std::move(outcome)); },
          .on_exchange = options_.on_exchange,
      });
    }
    for (Action& action : core_.Handle(event, options_.clock->Monotonic()))
      Carry(std::move(action));
    if (!prepared_told_ && core_.facts()) {
      prepared_told_ = true;
      if (options_.on_prepared) options_.on_prepared(*engine_);
    }
    ReportIfDue(exit_code_.has_value());
  }
  options_.sink->Flush(absl::Seconds(2));
  return *exit_code_;
}

CoreEvent TrainerShell::NextEvent(absl::Time deadline) {
  const auto ready = [](std::deque<CoreEvent>* events) { return !events->empty(); };
  absl::MutexLock lock(&mutex_);
  const absl::Duration wait = deadline - options_.clock->Monotonic();
  AwaitFor(mutex_, absl::Condition(+ready, &events_), wait);
  if (events_.empty()) return Tick{};
  CoreEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

void TrainerShell::Carry(Action action) {
  if (IsOperation(action)) {
    absl::MutexLock lock(&mutex_);
    VITSCALE_CHECK(!operation_) << "two operations at once";
    operation_ = std::move(action);
  } else if (std::holds_alternative<AbortNote>(action)) {
    if (engine_) engine_->Abort();
  } else if (std::holds_alternative<DropCollectiveNote>(action)) {
    if (engine_) engine_->DropCollective();
  } else if (auto* manifest = std::get_if<WriteManifestNote>(&action)) {
    engine_->WriteManifest(*manifest);
  } else if (auto* abandon = std::get_if<AbandonSaveNote>(&action)) {
    engine_->AbandonSave(*abandon);
  } else if (auto* emit = std::get_if<EmitNote>(&action)) {
    Complete(emit->record);
    urgent_ |= !std::holds_alternative<link::StepRecord>(emit->record.record);
    records_.push_back(std::move(emit->record));
  } else if (auto* exit = std::get_if<ExitNote>(&action)) {
    exit_code_ = exit->code;
    error_ = exit->error;
    if (!error_.empty() && options_.log_error)
      VITSCALE_LOG(ERROR) << link::DescribeExit(exit->code) << ": " << error_;
  }
}

// What the core cannot know: wall clock and memory.
void TrainerShell::Complete(link::SpooledRecord& record) const {
  if (auto* step = std::get_if<link::StepRecord>(&record.record)) {
    if (step->time == absl::UnixEpoch()) step->time = options_.clock->Now();
    step->resident_bytes = ResidentBytes();
  } else if (auto* event = std::get_if<link::Event>(&record.record)) {
    event->time = options_.clock->Now();
  }
}

void TrainerShell::RunOperations() {
  const auto ready = +[](TrainerShell* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
    return self->stopping_ || self->operation_.has_value();
  };
  while (true) {
    Action operation;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(ready, this));
      if (stopping_) return;
      operation = std::move(*operation_);
      operation_.reset();
    }
    Post(engine_ ? engine_->Run(operation)
                 : CoreEvent(Prepared{
                       {absl::FailedPreconditionError("no setup came before the first order"),
                        Fault::kConfiguration,
                        {}}}));
  }
}

void TrainerShell::ReportIfDue(bool force) {
  const absl::Time now = options_.clock->Monotonic();
  const link::ObservedState& observed = core_.observed();
  const bool urgent = force || urgent_ || DiffersInMoreThanProgress(observed, reported_);
  const bool progress = !records_.empty() || !(observed == reported_);
  if (!urgent && now - last_report_ < (progress ? kProgressEvery : kReportEvery)) return;
  link::TrainerReport report;
  report.observed = observed;
  report.records = std::move(records_);
  report.metrics = Metrics();
  records_.clear();
  reported_ = observed;
  urgent_ = false;
  last_report_ = now;
  options_.sink->Send(std::move(report));
}

link::TrainerMetrics TrainerShell::Metrics() const {
  link::TrainerMetrics metrics;
  metrics.last_step = core_.last_step();
  metrics.collective_failures_total = core_.collective_failures();
  metrics.nonfinite_total = core_.non_finite_steps();
  metrics.goodput = core_.goodput();
  metrics.resident_bytes = ResidentBytes();
  if (!engine_) return metrics;
  const EngineTotals totals = engine_->totals();
  metrics.phase_seconds_total = totals.phase_seconds;
  metrics.images_total = totals.images;
  metrics.input_wait_seconds_total = totals.input_wait_seconds;
  metrics.data_read_bytes_total = totals.data_read_bytes;
  metrics.collective_bytes_total = totals.collective_bytes;
  const CheckpointWriter::Totals saved = engine_->checkpoint_totals();
  metrics.checkpoint_save_seconds = saved.save_seconds;
  metrics.checkpoint_bytes = saved.checkpoint_bytes;
  metrics.checkpoint_failures_total = saved.failures;
  metrics.checkpoint_step = saved.checkpoint_step;
  metrics.checkpoint_timestamp_seconds = saved.checkpoint_time_seconds;
  if (core_.facts() && core_.last_step() && core_.last_step()->step_seconds > 0) {
    const RunFacts& facts = *core_.facts();
    metrics.flops_per_second =
        facts.training_flops_per_image * static_cast<double>(facts.batch_global) /
        std::max(1, facts.numerics.world_size) / core_.last_step()->step_seconds;
  }
  return metrics;
}

}  // namespace vitscale
