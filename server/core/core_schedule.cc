// What the scheduler sees, and what is done with its decisions.

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/core/convert.h"
#include "server/core/core.h"

namespace vitscale {
namespace {

// CPU instruction sets in rising order; an unknown one counts as the lowest.
constexpr const char* kCpuSets[] = {"", "avx2", "avx512", "avx512_bf16"};
int CpuRank(const std::string& name) {
  for (int i = 3; i > 0; --i) {
    if (name == kCpuSets[i]) return i;
  }
  return 0;
}

}  // namespace

double Core::ShareOf(const std::string& owner) const {
  const auto it = owners_.find(owner);
  if (it == owners_.end()) return 0;
  const double age = absl::ToDoubleSeconds(now_.wall - FromProto(it->second.time()));
  return it->second.device_seconds() *
         std::exp2(-std::max(0.0, age) / absl::ToDoubleSeconds(options_.share_half_life));
}

void Core::Enqueue(const JobRow& row) {
  const v1::Job& job = row.job();
  const auto it = queued_.try_emplace(job.id()).first;
  QueueItem& item = it->second;
  item.owner = job.owner().name();
  item.avoid_worker = row.avoid_worker();
  item.reason = job.reason();
  item.since = FromProto(row.queued_since());
  // Counted by the steady clock from when it is first seen, so that a wall clock that jumps makes
  // no back-off longer than it was meant to be.
  const absl::Time not_before =
      row.has_not_before() ? FromProto(row.not_before()) : absl::InfinitePast();
  if (not_before != item.not_before) {
    item.not_before = not_before;
    item.ready_at = now_.steady + std::min(not_before - now_.wall, options_.backoff_max);
  }
  item.job.id = it->first;
  item.job.priority = job.spec().priority();
  item.job.number = row.number();
  item.job.need = std::max(1, job.spec().resources().workers().min());
  item.job.device = job.spec().resources().device();
  item.job.avoid_worker = item.avoid_worker;
  item.job.reason = item.reason;
}

SchedulerInput Core::BuildSchedulerInput() const {
  SchedulerInput input;
  input.reservation_after = options_.reservation_after;
  std::map<absl::string_view, double> shares;
  input.queue.reserve(queued_.size());
  input.devices.reserve(workers_.size());
  for (const auto& [id, item] : queued_) {
    QueuedJob& queued = input.queue.emplace_back(item.job);
    const auto [share, fresh] = shares.try_emplace(item.owner, 0.0);
    if (fresh) share->second = ShareOf(item.owner);
    queued.share = share->second;
    queued.waited = now_.wall - item.since;
    queued.backoff_left = item.ready_at - now_.steady;
  }
  for (const auto& [id, worker] : workers_) {
    SchedulerDevice device;
    device.worker_id = id;
    device.kind = worker.row.worker().device().kind();
    device.numeric_class = worker.numeric_class;
    if (!Usable(worker)) {
      device.status = DeviceStatus::kUnusable;
    } else if (!worker.holding.has_value()) {
      device.status = DeviceStatus::kFree;
    } else {
      const auto it = jobs_.find(worker.holding->job_id);
      const bool stopping =
          it != jobs_.end() && it->second.row.job().state() == v1::JOB_STATE_STOPPING;
      device.status =
          worker.holding->releasing || stopping ? DeviceStatus::kComing : DeviceStatus::kHeld;
      device.coming_preempted = stopping && it->second.row.job().intent() == v1::INTENT_PREEMPT;
    }
    input.devices.push_back(std::move(device));
  }
  for (const std::string& id : active_) {
    const JobRow& row = jobs_.at(id).row;
    if (row.job().intent() != v1::INTENT_RUN || row.job().state() == v1::JOB_STATE_STOPPING)
      continue;
    RunningJob running;
    running.id = id;
    running.priority = row.job().spec().priority();
    running.attempt_start = FromProto(row.gang().start());
    for (const auto& time : row.preempted()) {
      if (now_.wall - FromProto(time) < options_.preemption_memory) ++running.recent_preemptions;
    }
    for (const v1::Member& member : row.gang().members()) {
      running.workers.push_back(member.worker_id());
    }
    input.running.push_back(std::move(running));
  }
  return input;
}

void Core::RunScheduler() {
  if (now_.steady < next_schedule_) {
    schedule_wake_ = std::min(schedule_wake_, next_schedule_);
    return;
  }
  schedule_dirty_ = false;
  schedule_wake_ = absl::InfiniteFuture();
  next_schedule_ = now_.steady + options_.schedule_interval;
  ++schedule_rounds_;
  if (queued_.empty()) {
    last_schedule_ = {};
    return;
  }
  const SchedulerInput input = BuildSchedulerInput();
  last_schedule_ = Schedule(input);
  for (const QueuedJob& job : input.queue) {
    if (job.backoff_left > absl::ZeroDuration()) {
      schedule_wake_ = std::min(schedule_wake_, now_.steady + job.backoff_left);
    } else if (job.waited < options_.reservation_after) {
      schedule_wake_ =
          std::min(schedule_wake_, now_.steady + (options_.reservation_after - job.waited));
    }
  }
  for (const WaitDecision& wait : last_schedule_.waits) {
    JobEntry& job = jobs_.at(wait.job_id);
    QueueItem& item = queued_.at(wait.job_id);
    item.reason = wait.code;
    item.job.reason = item.reason;
    job.row.mutable_job()->set_reason(wait.code);
    job.row.mutable_job()->set_message(wait.text);
    if (wait.code == "backing_off" && job.row.failures_size() > 0) {
      const AttemptFailure& failure = *job.row.failures().rbegin();
      absl::StrAppend(job.row.mutable_job()->mutable_message(), ": ", failure.error_class(), ": ",
                      failure.message());
    }
    MarkDirty(job);
  }
  for (const PlacementDecision& placement : last_schedule_.placements) Place(placement);
  for (const PreemptionDecision& preemption : last_schedule_.preemptions) {
    JobEntry& victim = jobs_.at(preemption.victim);
    if (victim.row.job().intent() != v1::INTENT_RUN || !IsActive(victim.row.job().state()))
      continue;
    v1::Event& event = AddJobEvent(victim.row, "preempted", "system");
    event.set_reason("higher_priority");
    event.set_message(absl::StrCat("makes room for job ", preemption.job_id));
    RaiseIntent(victim, v1::INTENT_PREEMPT, "system", "preempted");
  }
}

// What the gang has in common, and what earlier attempts have fixed.
void Core::ResolveNumerics(JobEntry& job) {
  Gang& gang = *job.row.mutable_gang();
  const v1::Job& row = job.row.job();
  int lowest = 3;
  bool bf16 = true, cpu = true;
  for (const v1::Member& member : gang.members()) {
    const v1::DeviceInfo& device = workers_.at(member.worker_id()).row.worker().device();
    lowest = std::min(lowest, CpuRank(device.instruction_set()));
    bf16 = bf16 && device.bf16();
    cpu = cpu && device.kind() != v1::DEVICE_CUDA;
  }
  if (cpu) {
    const int kept = row.has_numerics() ? CpuRank(row.numerics().instruction_set()) : lowest;
    gang.set_instruction_set(kCpuSets[kept > 0 ? std::min(lowest, kept) : lowest]);
  }
  v1::Precision precision = row.spec().precision();
  if (precision != v1::PRECISION_BF16 && precision != v1::PRECISION_F32) {
    precision = bf16 ? v1::PRECISION_BF16 : v1::PRECISION_F32;
    if (row.numerics().precision() != v1::PRECISION_UNSPECIFIED)
      precision = row.numerics().precision();
  }
  gang.set_precision(precision);
}

}  // namespace vitscale
