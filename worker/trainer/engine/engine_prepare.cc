// PREPARE: job, data, checkpoint folder, plan, buffers, programs. See engine.h.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "worker/collective/gloo_collective.h"
#include "worker/plan/memory_table.h"
#include "worker/trainer/device_name.h"
#include "worker/trainer/engine/deal.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {
namespace {

Precision FromLink(link::Precision precision) {
  return precision == link::Precision::kBf16  ? Precision::kBf16
         : precision == link::Precision::kF32 ? Precision::kF32
                                              : Precision::kAuto;
}

link::Precision ToLink(Precision precision) {
  return precision == Precision::kBf16 ? link::Precision::kBf16 : link::Precision::kF32;
}

Outcome Fails(absl::Status status, Fault fault) { return {std::move(status), fault, {}}; }

}  // namespace

CoreEvent Engine::DoPrepare(const PrepareOp& op) {
  faults_.At("prepare", {});
  Prepared done;
  static_cast<Outcome&>(done) = OpenAll(op.desired);
  if (done.status.ok()) done.facts = Facts();
  return done;
}

Outcome Engine::OpenAll(const link::DesiredState& desired) {
  if (absl::Status status = faults_.Parse(options_.setup.faults); !status.ok()) {
    return Fails(status, Fault::kConfiguration);
  }
  auto listener = RendezvousListener::Open(options_.setup.data_address, options_.data_port);
  if (!listener.ok()) return Fails(listener.status(), Fault::kCollective);
  listener_ = *std::move(listener);
  job_id_ = desired.job_id;
  auto job = JobConfigFromCanonical(desired.spec_bytes);
  if (!job.ok()) return Fails(job.status(), Fault::kConfiguration);
  job_ = *std::move(job);
  if (absl::Status status = OpenData(); !status.ok()) {
    return Fails(status, absl::IsInvalidArgument(status) ? Fault::kConfiguration : Fault::kData);
  }
  if (evaluates()) {
    if (Outcome from = OpenFrom(); !from.status.ok()) return from;
    return MakeReplica(desired);
  }
  if (absl::Status status = OpenCheckpoints(desired); !status.ok()) {
    return Fails(Annotate(status, "checkpoint.dir"), Fault::kStorage);
  }
  if (Outcome from = OpenFrom(); !from.status.ok()) return from;
  return MakeReplica(desired);
}

absl::Status Engine::OpenData() {
  SourceRequest request;
  request.classes = job_.model.classes;
  request.height = request.width = job_.model.image_size;
  request.channels = job_.model.channels;
  request.seed = 0;  // synthetic sets show the same classes in training and evaluation
  request.ops = job_.preprocess.ops;
  request.draw_seed = job_.seed;
  if (!evaluates()) {
    auto train = OpenSource(*options_.fs, options_.setup.data_roots, job_.train, request);
    if (!train.ok()) return Annotate(train.status(), "data.train");
    train_ = *std::move(train);
  }
  for (const EvalConfig& eval : job_.evals) {
    VITSCALE_ASSIGN_OR_RETURN(evals_.emplace_back(), OpenEval(eval, request));
  }
  VITSCALE_ASSIGN_OR_RETURN(lengths_, ResolveLengths(job_, train_ ? train_->size() : 0));
  if (!train_) return absl::OkStatus();
  VITSCALE_ASSIGN_OR_RETURN(order_,
                            SampleOrder::Create(job_.seed, train_->size(), job_.batch_global));
  return absl::OkStatus();
}

absl::Status Engine::OpenCheckpoints(const link::DesiredState& desired) {
  VITSCALE_ASSIGN_OR_RETURN(const std::string directory,
                            ResolveBelow(*options_.fs, options_.setup.checkpoint_roots,
                                         job_.checkpoint.dir, MustExist::kNo));
  VITSCALE_ASSIGN_OR_RETURN(store_, CheckpointStore::Open(*options_.fs, directory, desired.job_id));
  auto writer =
      std::make_unique<CheckpointWriter>(*store_, *options_.clock, faults_, options_.post);
  absl::MutexLock lock(&mutex_);
  writer_ = std::move(writer);
  return absl::OkStatus();
}

// A run keeps the precision it began with; auto is resolved once, at the first placement.
absl::StatusOr<Precision> Engine::ResolvePrecision(const link::DesiredState& desired,
                                                   const BackendOptions& backend) const {
  Precision before = desired.numerics ? FromLink(desired.numerics->precision) : Precision::kAuto;
  if (before == Precision::kAuto && store_) {
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<CheckpointEntry> usable, store_->Usable());
    if (!usable.empty()) before = FromLink(usable.front().manifest.numerics.precision);
  }
  if (before == Precision::kAuto && from_ && !from_->manifest.weights_only)
    before = FromLink(from_->manifest.numerics.precision);
  const bool bound = before != Precision::kAuto && !(from_ && from_->FreeOfPrecision(job_));
  if (bound && job_.precision != Precision::kAuto && job_.precision != before) {
    return absl::InvalidArgumentError(absl::StrCat(
        "precision: ", PrecisionName(job_.precision), " is wanted, but the run was begun in ",
        PrecisionName(before), " and goes on in it only"));
  }
  if (job_.precision != Precision::kAuto) return job_.precision;
  if (before != Precision::kAuto) return before;
  if (const Precision placed = FromLink(desired.precision); placed != Precision::kAuto) {
    return placed;
  }
  const bool bf16 = backend.device != "cpu" || DescribeCpu(backend).bf16_matmul;
  return bf16 ? Precision::kBf16 : Precision::kF32;
}

// Several cards need NCCL: where it is missing that is told now and not by every generation.
absl::Status Engine::CheckSums() const {
  if (device_ == "cpu" || job_.workers == 1) return absl::OkStatus();
  if (options_.transport != Transport::kAuto) {
    return absl::InvalidArgumentError(absl::StrCat(
        "transport is chosen, wanted auto on ", device_, ": cards sum in their own memory"));
  }
  return CreateCommunicator(CommunicatorOf()).status();
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
    auto micro = ChooseMicroBatch(request, job_.workers, memory);
    if (!micro.ok()) return Fails(micro.status(), Fault::kConfiguration);
    request.batch_micro = *micro;
  }
  auto recompute = ChooseRecompute(request, memory);
  if (!recompute.ok()) return Fails(recompute.status(), Fault::kConfiguration);
  request.recompute = *recompute;
  auto packing = ChoosePacking(request, memory);
  if (!packing.ok()) return Fails(packing.status(), Fault::kConfiguration);
  request.packing = *packing;
  backend.packed_per_use = *packing == WeightPacking::kPerUse;
  auto plan = MakePlan(request);
  if (!plan.ok()) return Fails(plan.status(), Fault::kConfiguration);
  // A card whose memory nobody knows says itself whether it is enough.
  if (absl::Status fits = memory > 0 ? CheckFits(*plan, memory) : absl::OkStatus(); !fits.ok())
    return Fails(fits, Fault::kConfiguration);
  if (job_.batch_global / request.batch_micro < job_.workers) {
    return Fails(
        absl::InvalidArgumentError(absl::StrCat("batch: ", job_.batch_global / request.batch_micro,
                                                " micro-batches of ", request.batch_micro, " for ",
                                                job_.workers, " workers, want at least one each")),
        Fault::kConfiguration);
  }
  auto replica = Replica::Create(backend, *plan, job_.optimizer);
  if (!replica.ok()) {
    const bool user =
        absl::IsInvalidArgument(replica.status()) || absl::IsUnimplemented(replica.status());
    return Fails(WithMemoryTable(replica.status(), *plan),
                 user ? Fault::kConfiguration : Fault::kDevice);
  }
  replica_ = *std::move(replica);
  if (absl::Status sums = CheckSums(); !sums.ok()) {
    const bool user = absl::IsInvalidArgument(sums);
    return Fails(std::move(sums), user ? Fault::kConfiguration : Fault::kDevice);
  }
  if (backend.bf16 && !replica_->info().bf16_matmul) {
    VITSCALE_LOG(WARNING)
        << "this CPU does not multiply bf16: inputs are rounded to it and multiplied in f32, "
           "correctly but slowly";
  }
  const BackendInfo info = replica_->info();
  run_hash_ = CombineHash(plan->hash, Hash64(job_.canonical_bytes));
  run_hash_ = CombineHash(run_hash_, source.fingerprint());
  for (const EvalSet& set : evals_) {
    run_hash_ = CombineHash(run_hash_, set.source->fingerprint());
    if (set.support) run_hash_ = CombineHash(run_hash_, set.support->fingerprint());
  }
  run_hash_ = CombineHash(
      run_hash_, Hash64(absl::StrCat(info.name, info.instruction_set, info.libraries, Revision())));
  if (evaluates()) return {};
  // Every rank of the gang can get a micro-batch more than another, so prepare what may be needed.
  for (int rank : {0, job_.workers - 1}) {
    const auto ranges =
        DealMicroBatches(job_.batch_global, request.batch_micro, job_.workers, rank);
    if (absl::Status status = replica_->PrepareSteps(ranges.size()); !status.ok()) {
      return Fails(WithMemoryTable(status, *plan), Fault::kDevice);
    }
  }
  return {};
}

// Of the generation; before the first, of the one to come.
link::NumericsRecord Engine::Numerics() const {
  const BackendInfo info = replica_->info();
  link::NumericsRecord numerics;
  numerics.backend = info.name;
  numerics.build = Revision();
  numerics.instruction_set = info.instruction_set;
  numerics.libraries =
      absl::StrCat(info.libraries, info.libraries.empty() ? "" : ", ", GlooVersion());
  numerics.precision = ToLink(precision_);
  numerics.world_size =
      generation_.members.empty() ? job_.workers : static_cast<int>(generation_.members.size());
  numerics.batch_micro = static_cast<int>(replica_->plan().request.batch_micro);
  numerics.collective = algorithm_;
  numerics.bucket_bytes = replica_->plan().request.bucket_bytes;
  const PlanRequest& planned = replica_->plan().request;
  numerics.recompute = RecomputeName(planned.recompute);
  numerics.residual = DTypeName(planned.model.residual);
  return numerics;
}

RunFacts Engine::Facts() const {
  RunFacts facts;
  facts.start_step = job_.from ? job_.from->step : 0;
  facts.total_steps = lengths_.total_steps;
  facts.batch_global = job_.batch_global;
  facts.checkpoint_every = lengths_.checkpoint_every;
  facts.eval_every = lengths_.eval_every;
  facts.training_flops_per_image = replica_->plan().flops.training();
  facts.plan_hash = run_hash_;
  facts.job_hash = Hash64(job_id_);
  facts.skip_non_finite = job_.on_divergence.policy == DivergencePolicy::kSkip;
  facts.skips_max = job_.on_divergence.max;
  facts.data_address = listener_->address();
  facts.numerics = Numerics();
  return facts;
}

CoreEvent Engine::DoList() {
  Listed done;
  if (!store_) return done;  // an evaluation saves nothing
  const auto listing = store_->List();
  if (!listing.ok()) {
    static_cast<Outcome&>(done) =
        Fails(Annotate(listing.status(), "list checkpoints"), Fault::kStorage);
    return done;
  }
  for (const IncompleteEntry& entry : listing->incomplete) {
    if (!entry.has_manifest) continue;  // a save that was broken off
    done.damaged.push_back(
        absl::StrCat("checkpoint '", entry.path, "' is damaged: ", entry.reason));
    VITSCALE_LOG(WARNING) << done.damaged.back() << "; passed over";
  }
  constexpr size_t kListedMax = 10;
  for (const CheckpointEntry& entry : listing->valid) {
    if (entry.abandoned || done.checkpoints.size() == kListedMax) continue;
    done.checkpoints.push_back(InfoOf(entry.manifest, entry.path));
  }
  return done;
}

}  // namespace vitscale
