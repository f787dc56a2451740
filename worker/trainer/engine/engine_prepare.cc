// PREPARE: job, data, checkpoint folder, and what the others hear of it. See engine.h;
// engine_replica.cc has the rest.

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "worker/collective/gloo_collective.h"
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
  if (const uint64_t choices = replica_->choices(); choices != 0) {
    numerics.choices = absl::StrCat(absl::Hex(choices, absl::kZeroPad16));
  }
  return numerics;
}

// Every rank measures for itself; a manifest has what rank 0 chose.
std::vector<std::string> Engine::ChangedSince(const CheckpointManifest& manifest) const {
  link::NumericsRecord now = Numerics();
  if (generation_.rank != 0) now.choices.clear();
  return NumericsDifferences(manifest.numerics, now);
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
