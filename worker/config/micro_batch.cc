#include "worker/config/micro_batch.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "proto/spec/job_spec.h"
#include "worker/config/job_config.h"
#include "worker/plan/placements.h"

namespace vitscale {
namespace {

constexpr size_t kModelsShown = 4;

int64_t Room(const DeviceLimits& device) {
  return device.memory_bytes > 0 ? device.memory_bytes : std::numeric_limits<int64_t>::max();
}

// ---- words -------------------------------------------------------------------

// "2 cpu workers (62.8 GiB)"; all of one kind and model.
std::string GroupText(const std::vector<DeviceLimits>& group) {
  const DeviceLimits& least = *std::min_element(
      group.begin(), group.end(), [](const auto& a, const auto& b) { return Room(a) < Room(b); });
  std::vector<std::string> facts;
  if (least.kind == DeviceKind::kCuda && !least.model.empty()) facts.push_back(least.model);
  facts.push_back(least.memory_bytes > 0 ? HumanBytes(least.memory_bytes) : "memory not known");
  return absl::StrCat(group.size(), " ", DeviceKindName(least.kind),
                      group.size() == 1 ? " worker (" : " workers (", absl::StrJoin(facts, ", "),
                      ")");
}

std::string WorkersText(absl::Span<const DeviceLimits> workers) {
  std::map<std::pair<DeviceKind, std::string>, std::vector<DeviceLimits>> groups;
  for (const DeviceLimits& worker : workers) {
    const bool card = worker.kind == DeviceKind::kCuda;
    groups[{worker.kind, card ? worker.model : ""}].push_back(worker);
  }
  std::vector<std::string> texts;
  for (const auto& [key, group] : groups) {
    if (texts.size() == kModelsShown) {
      texts.push_back(absl::StrCat(groups.size() - kModelsShown, " more models"));
      break;
    }
    texts.push_back(GroupText(group));
  }
  return absl::StrJoin(texts, " and ");
}

// ---- placements --------------------------------------------------------------

std::vector<DeviceLimits> OfKind(absl::Span<const DeviceLimits> workers, DeviceKind kind) {
  std::vector<DeviceLimits> found;
  for (const DeviceLimits& worker : workers) {
    if (worker.kind == kind) found.push_back(worker);
  }
  return found;
}

// Without those that another of their kind decides for: one with no more memory and as many
// threads, each of which has its scratch.
std::vector<DeviceLimits> Deciding(std::vector<DeviceLimits> workers) {
  std::sort(workers.begin(), workers.end(), [](const auto& a, const auto& b) {
    return std::make_pair(Room(a), -a.threads) < std::make_pair(Room(b), -b.threads);
  });
  std::vector<DeviceLimits> deciding;
  for (DeviceLimits& worker : workers) {
    if (worker.kind == DeviceKind::kCuda) worker.threads = 0;
    if (deciding.empty() || worker.threads > deciding.back().threads) deciding.push_back(worker);
  }
  return deciding;
}

// Those that the job may get: the first gang resolves auto, and all later ones keep it. Which of
// the two needs more memory depends on the model: f32 has larger activations, bf16 has rounded
// copies of the weights.
std::vector<Precision> Precisions(const JobConfig& job, absl::Span<const DeviceLimits> workers) {
  if (job.precision != Precision::kAuto) return {job.precision};
  const auto has = [&](bool bf16) {
    return job.from.has_value() ||
           std::any_of(workers.begin(), workers.end(),
                       [&](const DeviceLimits& worker) { return worker.bf16 == bf16; });
  };
  std::vector<Precision> precisions;
  if (has(false)) precisions.push_back(Precision::kF32);
  if (has(true)) precisions.push_back(Precision::kBf16);
  return precisions;
}

// One for each that may decide, in each precision that the job may get.
std::vector<Placement> PlacementsOf(const JobConfig& job, absl::Span<const DeviceLimits> workers) {
  std::vector<Placement> placements;
  for (const DeviceKind kind : {DeviceKind::kCpu, DeviceKind::kCuda}) {
    const std::vector<DeviceLimits> same = OfKind(workers, kind);
    const std::string name = WorkersText(same);
    for (const DeviceLimits& worker : Deciding(same)) {
      for (const Precision precision : Precisions(job, workers)) {
        Placement placement{PlanRequestFor(job, precision), worker.memory_bytes, name};
        placement.request.device = kind;
        placement.request.threads = std::max(1, worker.threads);
        placements.push_back(std::move(placement));
      }
    }
  }
  return placements;
}

absl::StatusOr<int64_t> ChooseFor(const JobConfig& job, absl::Span<const DeviceLimits> workers) {
  return ChooseMicroBatch(PlacementsOf(job, workers), job.workers);
}

// A job that takes any device may do with the kind that it fits.
absl::Status WithKindThatFits(const absl::Status& error, const JobConfig& job,
                              absl::Span<const DeviceLimits> workers) {
  if (!absl::IsResourceExhausted(error) || job.wanted_device != WantedDevice::kAny) return error;
  for (const DeviceKind kind : {DeviceKind::kCpu, DeviceKind::kCuda}) {
    const std::vector<DeviceLimits> same = OfKind(workers, kind);
    if (same.empty() || !ChooseFor(job, same).ok()) continue;
    return absl::ResourceExhaustedError(absl::StrCat(error.message(), "; or resources.device ",
                                                     DeviceKindName(kind), ", which fits ",
                                                     WorkersText(same)));
  }
  return error;
}

// As if there were a worker of the kind that the job wants, without a limit.
DeviceLimits Unlimited(const JobConfig& job) {
  return {job.wanted_device == WantedDevice::kCuda ? DeviceKind::kCuda : DeviceKind::kCpu, "", 0, 0,
          false};
}

}  // namespace

absl::StatusOr<FixedSpec> FixMicroBatch(absl::string_view serialized_job_spec,
                                        absl::Span<const DeviceLimits> workers) {
  VITSCALE_ASSIGN_OR_RETURN(const JobConfig job, JobConfigFromCanonical(serialized_job_spec));
  if (job.batch_micro > 0) {
    return FixedSpec{job.canonical_bytes,
                     absl::StrCat("batch.micro ", job.batch_micro, " is as given")};
  }
  const std::vector<DeviceLimits> unlimited = {Unlimited(job)};
  const auto micro = ChooseFor(job, workers.empty() ? absl::MakeConstSpan(unlimited) : workers);
  if (!micro.ok()) return WithKindThatFits(micro.status(), job, workers);
  v1::JobSpec spec;
  VITSCALE_CHECK(spec.ParseFromString(job.canonical_bytes)) << "canonical bytes";
  spec.mutable_batch()->set_micro(static_cast<int32_t>(*micro));
  return FixedSpec{
      SpecBytes(spec),
      absl::StrCat("batch.micro ", *micro,
                   workers.empty() ? " is as large as helps: no worker is known that limits it"
                                   : absl::StrCat(" fits ", WorkersText(workers)))};
}

}  // namespace vitscale
