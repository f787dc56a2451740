#include "server/metrics/coordinator_metrics.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/time_util.h"
#include "kernels/base/clock.h"
#include "kernels/base/version.h"
#include "prometheus/text_serializer.h"
#include "proto/metrics/metric_families.h"

namespace vitscale {
namespace {

// From a commit of 100 us to a day in the queue.
constexpr double kSecondsBounds[] = {0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                     0.05,   0.1,    0.25,  0.5,    1,     5,    15,
                                     60,     300,    1800,  7200,   86400};

constexpr v1::JobState kJobStates[] = {
    v1::JOB_STATE_QUEUED,     v1::JOB_STATE_STARTING, v1::JOB_STATE_RUNNING,
    v1::JOB_STATE_RECOVERING, v1::JOB_STATE_STOPPING, v1::JOB_STATE_PAUSED,
    v1::JOB_STATE_SUCCEEDED,  v1::JOB_STATE_FAILED,   v1::JOB_STATE_CANCELLED};
constexpr v1::WorkerState kWorkerStates[] = {
    v1::WORKER_STATE_IDLE,        v1::WORKER_STATE_BUSY,        v1::WORKER_STATE_RELEASING,
    v1::WORKER_STATE_UNREACHABLE, v1::WORKER_STATE_QUARANTINED, v1::WORKER_STATE_DRAINING,
    v1::WORKER_STATE_LOST,        v1::WORKER_STATE_DIRTY};

std::string Word(const std::string& enum_name, absl::string_view prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(enum_name, prefix));
}
std::string StateWord(v1::JobState state) { return Word(v1::JobState_Name(state), "JOB_STATE_"); }
std::string StateWord(v1::WorkerState state) {
  return Word(v1::WorkerState_Name(state), "WORKER_STATE_");
}
bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}
absl::Time FromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixNanos(google::protobuf::util::TimeUtil::TimestampToNanoseconds(time));
}
std::vector<std::pair<const char*, double>> GoodputStates(const v1::Goodput& g) {
  return {{"productive", g.productive()},   {"recomputed", g.recomputed()},
          {"recovering", g.recovering()},   {"checkpoint_stall", g.checkpoint_stall()},
          {"input_stall", g.input_stall()}, {"evaluation", g.evaluation()},
          {"queued", g.queued()},           {"paused", g.paused()}};
}

}  // namespace

CoordinatorMetrics::CoordinatorMetrics(int64_t term) : term_(term) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [state, seconds] : GoodputStates({})) goodput_[state] = seconds;
  preemptions_["higher_priority"] = 0;
}

void CoordinatorMetrics::Load(const std::vector<JobRow>& jobs) {
  absl::MutexLock lock(&mutex_);
  for (const JobRow& row : jobs) SeeJob(row, /*at_start=*/true);
}

void CoordinatorMetrics::Committed(const Changes& changes, absl::Duration took) {
  absl::MutexLock lock(&mutex_);
  Observe(store_commit_, absl::ToDoubleSeconds(took));
  for (const JobRow& row : changes.jobs) SeeJob(row, /*at_start=*/false);
  for (const v1::Event& event : changes.events) SeeEvent(event);
}

void CoordinatorMetrics::SeeJob(const JobRow& row, bool at_start) {
  const v1::Job& job = row.job();
  // A row is committed again after the end, when its workers report: it was counted.
  if (!at_start && IsFinal(job.state()) && !unfinished_.contains(job.id())) return;
  JobSeen& seen = unfinished_[job.id()];
  if (!at_start) {
    AddGoodput(seen.goodput, job.goodput());
    recoveries_ += std::max<int64_t>(0, job.recoveries() - seen.recoveries);
    if (job.attempt() > seen.attempt && row.has_gang()) {
      const absl::Duration wait = FromProto(row.gang().start()) - FromProto(row.queued_since());
      Observe(queue_wait_, std::max(0.0, absl::ToDoubleSeconds(wait)));
    }
  }
  seen = {job.state(), job.attempt(), job.goodput(), job.recoveries(), job.spec().name(), {}};
  for (const v1::EvalRecord& eval : job.last_evals()) {
    for (const auto& [value, measured] : eval.values()) {
      // A sweep of few-shot strengths would be a hundred series: the best of it stands for it.
      if (!absl::StrContains(value, "_l2_")) seen.measured[{eval.name(), value}] = measured;
    }
  }
  if (!IsFinal(job.state())) return;
  if (at_start) ++finished_[job.state()];  // later ones are counted by their transition
  unfinished_.erase(job.id());
}

void CoordinatorMetrics::SeeEvent(const v1::Event& event) {
  if (event.kind() == "state_changed") {
    ++transitions_[{StateWord(event.from()), StateWord(event.to()), event.reason()}];
    if (IsFinal(event.to())) ++finished_[event.to()];
  } else if (event.kind() == "preempted") {
    ++preemptions_[event.reason()];
  } else if (event.kind() == "generation_broken") {
    ++broken_[event.reason()];
  } else if (event.kind() == "checkpoint_saved") {
    ++checkpoints_;
  }
}

void CoordinatorMetrics::AddGoodput(const v1::Goodput& before, const v1::Goodput& after) {
  const auto old = GoodputStates(before), now = GoodputStates(after);
  for (size_t i = 0; i < now.size(); ++i) {
    goodput_[now[i].first] += std::max(0.0, now[i].second - old[i].second);
  }
}

void CoordinatorMetrics::SetWorkers(const std::vector<v1::Worker>& workers) {
  absl::MutexLock lock(&mutex_);
  workers_ = workers;
}
void CoordinatorMetrics::SetWritable(bool writable) {
  absl::MutexLock lock(&mutex_);
  writable_ = writable;
}
void CoordinatorMetrics::SchedulerCycle(absl::Duration took) {
  absl::MutexLock lock(&mutex_);
  Observe(scheduler_cycle_, absl::ToDoubleSeconds(took));
}
void CoordinatorMetrics::StepsStored(int64_t steps) {
  absl::MutexLock lock(&mutex_);
  steps_ += steps;
}
void CoordinatorMetrics::RpcHandled(const std::string& service, const std::string& method,
                                    const std::string& code, absl::Duration took) {
  absl::MutexLock lock(&mutex_);
  ++handled_[{service, method, code}];
  Observe(handling_[{service, method}], absl::ToDoubleSeconds(took));
}

void CoordinatorMetrics::Observe(Histogram& histogram, double seconds) {
  histogram.buckets.resize(std::size(kSecondsBounds) + 1);
  const auto bound =
      std::lower_bound(std::begin(kSecondsBounds), std::end(kSecondsBounds), seconds);
  ++histogram.buckets[bound - std::begin(kSecondsBounds)];
  ++histogram.count;
  histogram.sum += seconds;
}

prometheus::MetricFamily CoordinatorMetrics::HistogramFamily(
    const std::string& name, const std::string& help,
    const std::vector<std::pair<Labels, const Histogram*>>& series) {
  prometheus::MetricFamily family{name, help, prometheus::MetricType::Histogram, {}};
  for (const auto& [labels, histogram] : series) {
    prometheus::ClientMetric metric;
    for (const auto& [key, value] : labels) metric.label.push_back({key, value});
    metric.histogram.sample_count = histogram->count;
    metric.histogram.sample_sum = histogram->sum;
    uint64_t below = 0;
    for (size_t i = 0; i <= std::size(kSecondsBounds); ++i) {
      below += i < histogram->buckets.size() ? histogram->buckets[i] : 0;
      const bool last = i == std::size(kSecondsBounds);
      metric.histogram.bucket.push_back(
          {below, last ? std::numeric_limits<double>::infinity() : kSecondsBounds[i]});
    }
    family.metric.push_back(std::move(metric));
  }
  return family;
}

std::vector<prometheus::MetricFamily> CoordinatorMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  {
    absl::MutexLock lock(&mutex_);
    CollectJobs(families);
    CollectEvaluations(families);
    CollectWorkers(families);
    CollectControl(families);
  }
  CollectProcess(families);
  return families;
}

void CoordinatorMetrics::CollectJobs(std::vector<prometheus::MetricFamily>& families) const {
  std::map<v1::JobState, int64_t> by_state = finished_;
  for (const auto& [id, seen] : unfinished_) ++by_state[seen.state];
  FamilyBuilder jobs = Gauge("vitscale_jobs", "Jobs in the store by state");
  for (v1::JobState state : kJobStates) {
    jobs.Add(static_cast<double>(by_state[state]), {{"state", StateWord(state)}});
  }
  jobs.To(families);
  FamilyBuilder transitions =
      Counter("vitscale_job_transitions_total", "Committed changes of a job's state");
  for (const auto& [key, count] : transitions_) {
    transitions.Add(
        static_cast<double>(count),
        {{"from", std::get<0>(key)}, {"to", std::get<1>(key)}, {"reason", std::get<2>(key)}});
  }
  transitions.To(families);
  FamilyBuilder preemptions = Counter("vitscale_preemptions_total", "Jobs asked to make room");
  for (const auto& [reason, count] : preemptions_) {
    preemptions.Add(static_cast<double>(count), {{"reason", reason}});
  }
  preemptions.To(families);
  FamilyBuilder broken =
      Counter("vitscale_generations_broken_total", "Generations that broke, by cause");
  for (const auto& [reason, count] : broken_) {
    broken.Add(static_cast<double>(count), {{"reason", reason}});
  }
  broken.To(families);
  Counter("vitscale_recoveries_total", "Times that a job went on after a failure")
      .Add(static_cast<double>(recoveries_))
      .To(families);
  FamilyBuilder goodput =
      Counter("vitscale_goodput_seconds_total", "Wall time of all jobs by what they were doing");
  for (const auto& [state, seconds] : goodput_) goodput.Add(seconds, {{"state", state}});
  goodput.To(families);
  families.push_back(HistogramFamily("vitscale_queue_wait_seconds",
                                     "From entering the queue to a placement",
                                     {{{}, &queue_wait_}}));
}

void CoordinatorMetrics::CollectEvaluations(std::vector<prometheus::MetricFamily>& families) const {
  FamilyBuilder values = Gauge("vitscale_job_evaluation_value",
                               "Newest values of the evaluations of jobs that have not ended");
  for (const auto& [id, seen] : unfinished_) {
    for (const auto& [key, measured] : seen.measured) {
      values.Add(measured, {{"job_id", id},
                            {"job_name", seen.name},
                            {"evaluation", key.first},
                            {"measure", key.second}});
    }
  }
  values.To(families);
}

void CoordinatorMetrics::CollectWorkers(std::vector<prometheus::MetricFamily>& families) const {
  std::map<std::pair<std::string, v1::WorkerState>, int64_t> by_state;
  double oldest_heartbeat = 0;
  for (const char* kind : {"cpu", "cuda"}) {
    for (v1::WorkerState state : kWorkerStates) by_state[{kind, state}] = 0;
  }
  for (const v1::Worker& worker : workers_) {
    ++by_state[{Word(v1::Device_Name(worker.device().kind()), "DEVICE_"), worker.state()}];
    if (worker.state() == v1::WORKER_STATE_LOST) continue;
    oldest_heartbeat = std::max(
        oldest_heartbeat,
        google::protobuf::util::TimeUtil::DurationToNanoseconds(worker.heartbeat_age()) * 1e-9);
  }
  FamilyBuilder workers = Gauge("vitscale_workers", "Workers by kind of device and state");
  for (const auto& [key, count] : by_state) {
    workers.Add(static_cast<double>(count),
                {{"device", key.first}, {"state", StateWord(key.second)}});
  }
  workers.To(families);
  Gauge("vitscale_worker_heartbeat_age_max_seconds", "Longest silence of a worker that is not lost")
      .Add(oldest_heartbeat)
      .To(families);
}

void CoordinatorMetrics::CollectControl(std::vector<prometheus::MetricFamily>& families) const {
  Gauge("vitscale_build_info", "Always 1; version and revision of the coordinator")
      .Add(1, {{"version", kVersion}, {"revision", std::string(Revision())}})
      .To(families);
  Gauge("vitscale_coordinator_term", "Which life of the coordinator on this state this is")
      .Add(static_cast<double>(term_))
      .To(families);
  Gauge("vitscale_store_writable", "1 if the store takes mutations").Add(writable_).To(families);
  Counter("vitscale_steps_stored_total", "Step records written to the store")
      .Add(static_cast<double>(steps_))
      .To(families);
  Counter("vitscale_checkpoints_total", "Checkpoints reported complete")
      .Add(static_cast<double>(checkpoints_))
      .To(families);
  families.push_back(HistogramFamily("vitscale_store_commit_seconds",
                                     "From a transaction's hand-over to its durability",
                                     {{{}, &store_commit_}}));
  families.push_back(HistogramFamily("vitscale_scheduler_cycle_seconds",
                                     "Time of one round of the core", {{{}, &scheduler_cycle_}}));
  FamilyBuilder handled = Counter("grpc_server_handled_total", "Calls answered");
  for (const auto& [key, count] : handled_) {
    handled.Add(static_cast<double>(count), {{"grpc_service", std::get<0>(key)},
                                             {"grpc_method", std::get<1>(key)},
                                             {"grpc_code", std::get<2>(key)}});
  }
  handled.To(families);
  std::vector<std::pair<Labels, const Histogram*>> handling;
  for (const auto& [key, histogram] : handling_) {
    handling.push_back({{{"grpc_service", key.first}, {"grpc_method", key.second}}, &histogram});
  }
  if (handling.empty()) return;
  families.push_back(
      HistogramFamily("grpc_server_handling_seconds", "Time to the answer", handling));
}

std::string CoordinatorMetrics::Text() const {
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, Collect());
  return text.str();
}

}  // namespace vitscale
