#include "worker/agent/agent_metrics.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/version.h"
#include "proto/metrics/metric_families.h"

namespace vitscale::agent {
namespace {

constexpr double kSecondsBounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                     0.5,   1,      2.5,   5,    10,    30,   60};

MetricLabels With(MetricLabels labels, const std::string& key, const std::string& value) {
  labels[key] = value;
  return labels;
}

}  // namespace

AgentMetrics::AgentMetrics(std::string worker_id, std::string device,
                           std::optional<CardLimits> card)
    : worker_id_(std::move(worker_id)), device_(std::move(device)), card_(card) {}

void AgentMetrics::TrainerStarted(const std::string& job_name, int rank) {
  absl::MutexLock lock(&mutex_);
  ++starts_;
  job_labels_ = {{"job_name", job_name}, {"rank", absl::StrCat(rank)}};
  trainer_.reset();
  step_times_.clear();
}

void AgentMetrics::TrainerExited(int exit_code) {
  absl::MutexLock lock(&mutex_);
  ++exits_[exit_code];
}

void AgentMetrics::Clear() {
  absl::MutexLock lock(&mutex_);
  trainer_.reset();
  step_times_.clear();
}

void AgentMetrics::Update(const link::TrainerMetrics& metrics) {
  absl::MutexLock lock(&mutex_);
  trainer_ = metrics;
}

void AgentMetrics::AddStep(const link::StepRecord& record) {
  absl::MutexLock lock(&mutex_);
  const auto add = [this](const std::string& phase,
                          double seconds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    StepTimes& times = step_times_[phase];
    times.buckets.resize(std::size(kSecondsBounds) + 1);
    ++times
          .buckets[std::lower_bound(std::begin(kSecondsBounds), std::end(kSecondsBounds), seconds) -
                   std::begin(kSecondsBounds)];
    ++times.count;
    times.sum += seconds;
  };
  add("all", record.step_seconds);
  for (const auto& [phase, seconds] : record.phase_seconds) add(phase, seconds);
}

void AgentMetrics::SetWorker(const WorkerGauges& gauges) {
  absl::MutexLock lock(&mutex_);
  worker_ = gauges;
}

std::vector<prometheus::MetricFamily> AgentMetrics::Collect() const {
  Families families;
  {
    absl::MutexLock lock(&mutex_);
    if (trainer_) CollectTraining(families);
    CollectStepTimes(families);
    CollectWorker(families);
    if (card_) CollectCard(families);
  }
  CollectProcess(families);
  return families;
}

void AgentMetrics::CollectTraining(Families& families) const {
  const link::TrainerMetrics& m = *trainer_;
  const MetricLabels& labels = job_labels_;
  if (m.last_step) CollectStep(*m.last_step, families);
  FamilyBuilder phases = Counter("vitscale_train_phase_seconds_total",
                                 "Seconds by phase of a step since the trainer started");
  for (const auto& [phase, seconds] : m.phase_seconds_total) {
    phases.Add(seconds, With(labels, "phase", phase));
  }
  phases.To(families);
  Counter("vitscale_train_images_total", "Images of this rank since the trainer started")
      .Add(static_cast<double>(m.images_total), labels)
      .To(families);
  Gauge("vitscale_train_flops_per_second", "Training FLOPs per second over the last steps")
      .Add(m.flops_per_second, labels)
      .To(families);
  if (const double peak = PeakFlops(); peak > 0) {
    Gauge("vitscale_train_mfu_ratio",
          "Training FLOPs per second over what the card could do at most")
        .Add(m.flops_per_second / peak, labels)
        .To(families);
  }
  Gauge("vitscale_train_resident_memory_bytes", "Resident memory of the trainer, bytes")
      .Add(static_cast<double>(m.resident_bytes), labels)
      .To(families);
  FamilyBuilder goodput =
      Counter("vitscale_train_goodput_seconds_total", "Seconds by what the trainer was doing");
  for (const auto& [state, seconds] :
       {std::pair<const char*, double>{"productive", m.goodput.productive},
        {"recomputed", m.goodput.recomputed},
        {"recovering", m.goodput.recovering},
        {"checkpoint_stall", m.goodput.checkpoint_stall},
        {"input_stall", m.goodput.input_stall},
        {"evaluation", m.goodput.evaluation},
        {"queued", m.goodput.queued}}) {
    goodput.Add(seconds, With(labels, "state", state));
  }
  goodput.To(families);
  Counter("vitscale_nonfinite_total", "Steps whose gradient norm was not finite")
      .Add(static_cast<double>(m.nonfinite_total), With(labels, "where", "gradient"))
      .To(families);
  Counter("vitscale_allreduce_failures_total", "Collectives that failed")
      .Add(static_cast<double>(m.collective_failures_total), labels)
      .To(families);
  FamilyBuilder handed_over =
      Counter("vitscale_allreduce_bytes_total",
              "Bytes of gradients and records that this rank has handed to sums and gathers of "
              "several ranks, by what carries them");
  for (const auto& [algorithm, bytes] : m.collective_bytes_total) {
    handed_over.Add(static_cast<double>(bytes), With(labels, "algorithm", algorithm));
  }
  handed_over.To(families);
  Counter("vitscale_data_input_wait_seconds_total", "Seconds that a step waited for images")
      .Add(m.input_wait_seconds_total, labels)
      .To(families);
  Counter("vitscale_data_read_bytes_total", "Bytes read by the data pipeline")
      .Add(static_cast<double>(m.data_read_bytes_total), labels)
      .To(families);
  Counter("vitscale_checkpoint_failures_total", "Checkpoint saves that failed")
      .Add(static_cast<double>(m.checkpoint_failures_total), labels)
      .To(families);
  if (m.checkpoint_timestamp_seconds <= 0) return;
  Gauge("vitscale_checkpoint_save_seconds", "Seconds of the last checkpoint save")
      .Add(m.checkpoint_save_seconds, labels)
      .To(families);
  Gauge("vitscale_checkpoint_size_bytes", "Bytes of the last checkpoint")
      .Add(static_cast<double>(m.checkpoint_bytes), labels)
      .To(families);
  Gauge("vitscale_checkpoint_last_success_step", "Step of the last complete checkpoint")
      .Add(static_cast<double>(m.checkpoint_step), labels)
      .To(families);
  Gauge("vitscale_checkpoint_last_success_timestamp_seconds",
        "Wall clock of the last complete checkpoint, seconds since the epoch")
      .Add(m.checkpoint_timestamp_seconds, labels)
      .To(families);
}

// In the precision that the trainer runs in; 0: no card, an unknown one, or no trainer yet.
double AgentMetrics::PeakFlops() const {
  if (!card_) return 0;
  switch (worker_.precision) {
    case link::Precision::kBf16:
      return card_->bf16_flops_per_second;
    case link::Precision::kF32:
      return card_->f32_flops_per_second;
    default:
      return 0;
  }
}

void AgentMetrics::CollectCard(Families& families) const {
  const MetricLabels labels = {{"device", device_}};
  Gauge("vitscale_worker_device_memory_bytes", "Memory of the card, bytes")
      .Add(static_cast<double>(card_->memory_bytes), labels)
      .To(families);
  if (!worker_.device_use) return;
  const link::DeviceUse& use = *worker_.device_use;
  if (use.used_bytes > 0 || use.free_bytes > 0) {  // else it could not be read: nobody knows
    Gauge("vitscale_worker_device_memory_used_bytes", "Memory of the card in use by anybody, bytes")
        .Add(static_cast<double>(use.used_bytes), labels)
        .To(families);
    Gauge("vitscale_worker_device_foreign_processes",
          "Processes on the card that are not the worker's")
        .Add(use.foreign_processes, labels)
        .To(families);
  }
  Gauge("vitscale_worker_device_dirty",
        "1 while somebody else uses the card: nothing is placed on it")
      .Add(use.dirty.empty() ? 0 : 1, labels)
      .To(families);
}

void AgentMetrics::CollectStep(const link::StepRecord& step, Families& families) const {
  const auto gauge = [&](const char* name, const char* help, double value)
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
                           Gauge(name, help).Add(value, job_labels_).To(families);
                         };
  gauge("vitscale_train_step", "Optimizer updates done", static_cast<double>(step.step));
  gauge("vitscale_train_loss", "Mean loss of the newest global batch", step.loss);
  gauge("vitscale_train_grad_norm", "Norm of the reduced mean gradient before the clip",
        step.gradient_norm);
  gauge("vitscale_train_learning_rate", "Base learning rate times schedule", step.learning_rate);
  gauge("vitscale_train_param_norm", "Norm of all parameters after the update",
        step.parameter_norm);
  gauge("vitscale_train_update_norm", "Norm of the update", step.update_norm);
  gauge("vitscale_train_accuracy_ratio", "Share of the newest global batch guessed right",
        step.train_accuracy);
  FamilyBuilder skew =
      Gauge("vitscale_allreduce_arrival_skew_seconds",
            "Arrival of each rank at the first bucket after the first rank, seconds");
  for (size_t rank = 0; rank < step.arrival_skew_seconds.size(); ++rank) {
    skew.Add(step.arrival_skew_seconds[rank],
             With({{"job_name", job_labels_.at("job_name")}}, "rank", absl::StrCat(rank)));
  }
  skew.To(families);
}

void AgentMetrics::CollectStepTimes(Families& families) const {
  if (step_times_.empty()) return;
  prometheus::MetricFamily family;
  family.name = "vitscale_train_step_seconds";
  family.help = "Seconds of a step by phase; phase \"all\" is the whole step";
  family.type = prometheus::MetricType::Histogram;
  for (const auto& [phase, times] : step_times_) {
    prometheus::ClientMetric metric;
    for (const auto& [key, value] : With(job_labels_, "phase", phase)) {
      metric.label.push_back({key, value});
    }
    metric.histogram.sample_count = times.count;
    metric.histogram.sample_sum = times.sum;
    uint64_t cumulative = 0;
    for (size_t i = 0; i < times.buckets.size(); ++i) {
      cumulative += times.buckets[i];
      const double bound = i < std::size(kSecondsBounds) ? kSecondsBounds[i]
                                                         : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulative, bound});
    }
    family.metric.push_back(std::move(metric));
  }
  families.push_back(std::move(family));
}

void AgentMetrics::CollectWorker(Families& families) const {
  Gauge("vitscale_build_info", "Version and revision; always 1")
      .Add(1, {{"version", kVersion}, {"revision", Revision()}})
      .To(families);
  Gauge("vitscale_worker_info", "Worker and device; always 1")
      .Add(1, {{"worker", worker_id_}, {"device", device_}})
      .To(families);
  Gauge("vitscale_worker_connected", "1 while the coordinator answers")
      .Add(worker_.connected ? 1 : 0)
      .To(families);
  Gauge("vitscale_worker_term", "Highest term of a coordinator seen")
      .Add(static_cast<double>(worker_.term))
      .To(families);
  Gauge("vitscale_worker_ownership_seconds",
        "Seconds until the device is given up unless the coordinator answers")
      .Add(worker_.ownership_seconds)
      .To(families);
  FamilyBuilder stage = Gauge("vitscale_worker_stage", "1 for the stage the trainer has reached");
  for (const link::Stage each : {link::Stage::kIdle, link::Stage::kPrepare, link::Stage::kForm,
                                 link::Stage::kGo, link::Stage::kExit}) {
    stage.Add(each == worker_.stage ? 1 : 0, {{"stage", std::string(link::StageName(each))}});
  }
  stage.To(families);
  Gauge("vitscale_worker_spool_records", "Records that the coordinator has not acknowledged")
      .Add(static_cast<double>(worker_.spool_records))
      .To(families);
  Gauge("vitscale_worker_spool_bytes", "Bytes of records that the coordinator has not acknowledged")
      .Add(static_cast<double>(worker_.spool_bytes))
      .To(families);
  Counter("vitscale_worker_spool_dropped_total", "Records thinned out because the spool was full")
      .Add(static_cast<double>(worker_.spool_dropped))
      .To(families);
  Counter("vitscale_worker_trainer_starts_total", "Trainers started")
      .Add(static_cast<double>(starts_))
      .To(families);
  FamilyBuilder exits = Counter("vitscale_worker_trainer_exits_total",
                                "Trainers that ended, by exit code (128 + n for signal n)");
  for (const auto& [code, count] : exits_) {
    exits.Add(static_cast<double>(count), {{"code", absl::StrCat(code)}});
  }
  exits.To(families);
}

}  // namespace vitscale::agent
