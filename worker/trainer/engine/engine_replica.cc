// PREPARE, second part: plan, buffers and every program that the job will run. See engine.h.

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "worker/plan/memory_table.h"
#include "worker/trainer/device_name.h"
#include "worker/trainer/engine/deal.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {
namespace {

Outcome Fails(absl::Status status, Fault fault) { return {std::move(status), fault, {}}; }

// A device that nobody can open says that, and not how much memory it has.
absl::Status CheckMemoryKnown(const BackendOptions& backend, int64_t memory_bytes) {
  if (memory_bytes > 0) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(CreateBackend(backend).status());
  return absl::InvalidArgumentError(absl::StrCat(
      "batch.micro: is not given, and the memory of ", backend.device,
      " is not known (no NVML, or a part of a card): want the number of images that fit"));
}

}  // namespace

// What would go wrong on any worker with such a device is the job's.
Fault Engine::FaultOfDevice(const absl::Status& status) const {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kResourceExhausted:
      return Fault::kConfiguration;
    case absl::StatusCode::kFailedPrecondition:
      return options_.by_hand ? Fault::kConfiguration : Fault::kDevice;
    default:
      return Fault::kDevice;
  }
}

// Several cards need NCCL: where it is missing that is told now and not by every generation.
absl::Status Engine::CheckSums() const {
  if (device_ == "cpu" || job_.workers == 1) return absl::OkStatus();
  if (options_.transport != Transport::kAuto) {
    return absl::InvalidArgumentError(absl::StrCat("transport is chosen, wanted auto on ", device_,
                                                   ": cards sum in their own memory"));
  }
  return CreateCommunicator(CommunicatorOf()).status();
}

// `memory_bytes` 0: a card whose memory nobody knows says itself whether it is enough.
absl::StatusOr<Plan> Engine::ChoosePlan(PlanRequest request, int64_t memory_bytes) const {
  if (request.batch_micro == 0) {
    VITSCALE_ASSIGN_OR_RETURN(request.batch_micro,
                              ChooseMicroBatch(request, job_.workers, memory_bytes));
  }
  VITSCALE_ASSIGN_OR_RETURN(request.recompute, ChooseRecompute(request, memory_bytes));
  VITSCALE_ASSIGN_OR_RETURN(request.packing, ChoosePacking(request, memory_bytes));
  VITSCALE_ASSIGN_OR_RETURN(Plan plan, MakePlan(request));
  if (memory_bytes > 0) VITSCALE_RETURN_IF_ERROR(CheckFits(plan, memory_bytes));
  const int64_t micro_batches = job_.batch_global / request.batch_micro;
  if (micro_batches >= job_.workers) return plan;
  return absl::InvalidArgumentError(absl::StrCat("batch: ", micro_batches, " micro-batches of ",
                                                 request.batch_micro, " for ", job_.workers,
                                                 " workers, want at least one each"));
}

// Of all that must be equal on all ranks.
uint64_t Engine::RunHash(const ImageSource& source) const {
  uint64_t hash = CombineHash(replica_->plan().hash, Hash64(job_.canonical_bytes));
  hash = CombineHash(hash, source.fingerprint());
  for (const EvalSet& set : evals_) {
    hash = CombineHash(hash, set.source->fingerprint());
    if (set.support) hash = CombineHash(hash, set.support->fingerprint());
  }
  const BackendInfo info = replica_->info();
  return CombineHash(
      hash, Hash64(absl::StrCat(info.name, info.instruction_set, info.libraries, Revision())));
}

// Nothing is asked of the device's memory after the first step. Every rank of the gang can get a
// micro-batch more than another, so what may be needed is prepared.
absl::Status Engine::PreparePrograms() {
  VITSCALE_RETURN_IF_ERROR(PrepareEvals());
  if (evaluates()) return absl::OkStatus();
  for (int rank : {0, job_.workers - 1}) {
    const auto ranges = DealMicroBatches(job_.batch_global, replica_->plan().request.batch_micro,
                                         job_.workers, rank);
    VITSCALE_RETURN_IF_ERROR(replica_->PrepareSteps(ranges.size()));
  }
  return absl::OkStatus();
}

Outcome Engine::MakeReplica(const link::DesiredState& desired) {
  BackendOptions backend;
  auto device = BackendDeviceOf(options_.setup.device, job_.wanted_device);
  if (!device.ok()) return Fails(device.status(), Fault::kConfiguration);
  backend.device = device_ = *std::move(device);
  backend.threads = options_.setup.threads;
  backend.instruction_set =
      desired.instruction_set.empty() ? options_.setup.instruction_set : desired.instruction_set;
  auto precision = ResolvePrecision(desired, backend);
  if (!precision.ok()) return Fails(precision.status(), Fault::kConfiguration);
  precision_ = *precision;
  backend.bf16 = precision_ == Precision::kBf16;

  PlanRequest request = PlanRequestFor(job_, precision_);
  request.device = DeviceKindOf(backend.device);
  const ImageSource& source = train_ ? *train_ : *evals_.front().source;
  request.source_height = source.height();
  request.source_width = source.width();
  if (options_.bucket_bytes > 0) request.bucket_bytes = options_.bucket_bytes;
  request.threads = backend.threads > 0 ? backend.threads : UsableCores();
  const int64_t memory = DeviceMemoryBytes(backend.device);
  if (request.batch_micro == 0) {
    const absl::Status known = CheckMemoryKnown(backend, memory);
    if (!known.ok()) return Fails(known, FaultOfDevice(known));
  }
  const auto plan = ChoosePlan(request, memory);
  if (!plan.ok()) return Fails(plan.status(), Fault::kConfiguration);
  backend.packed_per_use = plan->request.packing == WeightPacking::kPerUse;
  auto replica = Replica::Create(backend, *plan, job_.optimizer);
  if (!replica.ok())
    return Fails(WithMemoryTable(replica.status(), *plan), FaultOfDevice(replica.status()));
  replica_ = *std::move(replica);
  if (absl::Status sums = CheckSums(); !sums.ok()) return Fails(sums, FaultOfDevice(sums));
  if (backend.bf16 && !replica_->info().bf16_matmul) {
    VITSCALE_LOG(WARNING)
        << "this CPU does not multiply bf16: inputs are rounded to it and multiplied in f32, "
           "correctly but slowly";
  }
  run_hash_ = RunHash(source);
  if (absl::Status prepared = PreparePrograms(); !prepared.ok())
    return Fails(WithMemoryTable(prepared, *plan), FaultOfDevice(prepared));
  return {};
}

}  // namespace vitscale
