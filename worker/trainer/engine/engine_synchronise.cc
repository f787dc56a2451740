// GO: having met the other ranks (engine_meet.cc), take over the state and make sure that it is the
// same everywhere. See engine.h.

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "kernels/base/net.h"
#include "kernels/base/status.h"
#include "worker/trainer/core/gate.h"
#include "worker/trainer/engine/deal.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {
namespace {

constexpr absl::Duration kSmallExchange = absl::Seconds(30);
constexpr absl::Duration kLoadTimeout = absl::Minutes(10);  // the slowest rank's reading

// A damaged or vanished checkpoint breaks this generation, and the next one is formed from another.
// A whole one that belongs to another job file is the user's business: it stays where it is.
Fault FaultOfLoad(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
      return Fault::kConfiguration;
    case absl::StatusCode::kAborted:  // not the file has failed but where it was read to
      return Fault::kDevice;
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kOutOfRange:  // a file that is too short
    case absl::StatusCode::kInternal:    // the disk could not read it
    case absl::StatusCode::kNotFound:
      return Fault::kCollective;
    default:  // no memory, no right to read it
      return Fault::kStorage;
  }
}

// A version as bytes of a fixed size.
struct WireVersion {
  int64_t established_generation = 0, step = 0;
  uint64_t digest = 0;
  int64_t lineage = 0;
};

}  // namespace

CoreEvent Engine::DoSynchronise(const SynchroniseOp& op) {
  generation_ = op.desired;
  Synchronised done;
  const int world_size = std::max<int>(1, generation_.members.size());
  ranges_ = DealMicroBatches(job_.batch_global, replica_->plan().request.batch_micro, world_size,
                             generation_.rank);
  algorithm_.clear();
  faults_.At("synchronise", PlaceOf(-1));
  const double seconds = generation_.rendezvous ? generation_.rendezvous->deadline_seconds : 0;
  const auto fail = [&done](Outcome outcome) -> CoreEvent {
    static_cast<Outcome&>(done) = std::move(outcome);
    return done;
  };
  absl::Status status = Meet(generation_, absl::Seconds(seconds > 0 ? seconds : 10));
  if (!status.ok()) return fail(MeetingOutcome(status));
  done.collective = algorithm_ = collective()->algorithm();
  if (world_size > 1 && generation_.rank == 0)
    VITSCALE_LOG(INFO) << world_size << " ranks have met: " << algorithm_;
  Fault fault = Fault::kCollective;
  if (status = CheckShared(generation_, &fault); !status.ok()) {
    return fail(fault == Fault::kCollective ? CollectiveOutcome(status)
                                            : Outcome{status, fault, {}});
  }
  if (Outcome loaded = AgreeOnLoad(Load(*generation_.source, &done), &done); !loaded.status.ok()) {
    return fail(loaded);
  }
  if (status = CompareVersions(&done); !status.ok()) return fail(CollectiveOutcome(status));
  if (status = StartLoader(done.step); !status.ok()) return fail({status, Fault::kData, {}});
  exchange_left_ = options_.clock->Monotonic();
  return done;
}

// The lowest rank writes a file, everybody must read it; everybody learns who could not.
absl::Status Engine::CheckShared(const link::DesiredState& desired, Fault* fault) {
  const auto collective = this->collective();
  if (collective->world_size() == 1 || !store_) return absl::OkStatus();
  const std::string secret = absl::StrCat(
      absl::Hex(Hash64(desired.rendezvous ? desired.rendezvous->secret : ""), absl::kZeroPad16));
  absl::Status own = absl::OkStatus();
  if (desired.rank == 0) own = store_->WriteProbe(desired.attempt, desired.generation, secret);
  VITSCALE_RETURN_IF_ERROR(collective->Barrier(kSmallExchange));
  if (own.ok()) own = store_->ReadProbe(desired.attempt, desired.generation, secret);
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                            collective->AllGather(own.ok() ? "y" : "n", kSmallExchange));
  if (desired.rank == 0) {
    const absl::Status removed = store_->RemoveProbe(desired.attempt, desired.generation);
    if (!removed.ok()) VITSCALE_LOG(WARNING) << "probe file: " << removed.message();
  }
  std::vector<std::string> blind;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank] != "y") blind.push_back(desired.members[rank].worker_id);
  }
  if (blind.empty()) return absl::OkStatus();
  *fault = Fault::kConfiguration;
  if (all[0] != "y") {
    *fault = Fault::kStorage;
    return absl::UnavailableError(absl::StrCat("checkpoint.dir '", store_->JobPath(),
                                               "' of worker ", desired.members[0].worker_id, ": ",
                                               own.message()));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("checkpoint.dir '", job_.checkpoint.dir, "' is not shared between workers ",
                   desired.members[0].worker_id, " and ", absl::StrJoin(blind, ", ")));
}

Outcome Engine::Load(const link::Source& source, Synchronised* done) {
  done->lineage = generation_.lineage;
  parent_.clear();
  if (source.kind == link::Source::Kind::kInitialise && job_.from) {
    if (absl::Status status = LoadFrom(done); !status.ok()) {
      return {Annotate(status, "from"), FaultOfStart(status), {}};
    }
  } else if (source.kind == link::Source::Kind::kInitialise) {
    if (absl::Status status = replica_->Initialise(job_.seed); !status.ok()) {
      return {status, Fault::kDevice, {}};
    }
    done->step = 0;
  } else if (source.kind == link::Source::Kind::kCheckpoint) {
    done->checkpoint = source.checkpoint;
    if (absl::Status status = LoadCheckpoint(source.checkpoint, done); !status.ok()) {
      const Fault fault = FaultOfLoad(status);
      done->checkpoint_bad = fault == Fault::kCollective;
      return {std::move(status), fault, {}};
    }
  } else {
    return {absl::UnimplementedError("source: only initialisation and checkpoints are understood"),
            Fault::kConfiguration,
            {}};
  }
  const auto digest = replica_->Digest();
  if (!digest.ok()) return {digest.status(), Fault::kDevice, {}};
  done->digest = *digest;
  return {};
}

// Everybody learns whether everybody could load. A checkpoint that is damaged for one is set aside
// for all, so that the next generation is formed from the one before it; one that is missing for
// one is not taken again, but stays.
Outcome Engine::AgreeOnLoad(Outcome own, Synchronised* done) {
  const bool missing = absl::IsNotFound(own.status);
  const char* mine = own.status.ok() ? "y" : !done->checkpoint_bad ? "x" : missing ? "m" : "b";
  const auto all = collective()->AllGather(mine, kLoadTimeout);
  if (!all.ok()) return own.status.ok() ? CollectiveOutcome(all.status()) : own;
  bool damaged = false;
  for (size_t rank = 0; rank < all->size(); ++rank) {
    if ((*all)[rank] == "y") continue;
    damaged |= (*all)[rank] == "b";
    done->checkpoint_bad |= (*all)[rank] == "b" || (*all)[rank] == "m";
    if (own.status.ok()) {
      own = {absl::UnavailableError(absl::StrCat("rank ", rank, " could not load the state")),
             Fault::kCollective,
             {}};
    }
  }
  if (damaged && generation_.rank == 0) {
    const auto parts = ParseCheckpointId(done->checkpoint);
    const absl::Status aside = parts.ok() ? store_->SetAside(parts->name) : parts.status();
    VITSCALE_LOG(WARNING) << "checkpoint " << done->checkpoint << " is damaged: "
                          << (aside.ok() ? "set aside" : std::string(aside.message()));
  }
  return own;
}

// Seed and batch say which samples were seen: with others, steps would no longer mean what they
// did.
absl::Status Engine::CheckSameData(const CheckpointManifest& manifest) const {
  if (manifest.seed != job_.seed) {
    return absl::FailedPreconditionError(absl::StrCat(
        "seed: is ", job_.seed, ", but the run in the checkpoint folder was begun with ",
        manifest.seed, "; give this job another name or checkpoint.dir"));
  }
  if (manifest.images != manifest.name.step * job_.batch_global) {
    return absl::FailedPreconditionError(
        absl::StrCat("batch.global: is ", job_.batch_global,
                     ", but the run in the checkpoint folder saw ", manifest.images, " images in ",
                     manifest.name.step, " steps; give this job another name or checkpoint.dir"));
  }
  if (manifest.train_images != 0 && manifest.train_images != train_->size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "data.train: has ", train_->size(), " images, but the run in the checkpoint folder had ",
        manifest.train_images, "; give this job another name or checkpoint.dir"));
  }
  return absl::OkStatus();
}

// INVALID_ARGUMENT: every byte is as it was written, but the tensors are those of another model.
absl::Status Engine::ReadState(const CheckpointName& name) {
  const absl::Status read = store_->Read(name, replica_->StateTargets());
  if (!absl::IsInvalidArgument(read) && !absl::IsDataLoss(read)) return read;
  VITSCALE_RETURN_IF_ERROR(store_->Verify(name));
  return absl::InvalidArgumentError(
      absl::StrCat(read.message(),
                   ": it is of another model or optimizer; give this job another "
                   "name or checkpoint.dir"));
}

// ABORTED where the device could not compute it.
absl::Status Engine::CheckDigest(const CheckpointManifest& manifest) {
  if (manifest.digest == 0) return absl::OkStatus();
  const auto digest = replica_->Digest();
  if (!digest.ok()) return absl::AbortedError(absl::StrCat("device: ", digest.status().message()));
  if (*digest == manifest.digest) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("digest ", absl::Hex(*digest), ", the manifest says ",
                                          absl::Hex(manifest.digest)));
}

absl::Status Engine::LoadCheckpoint(const std::string& id, Synchronised* done) {
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointIdParts parts, ParseCheckpointId(id));
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointManifest manifest, store_->ReadManifest(parts.name));
  if (manifest.numerics.precision != Numerics().precision) {
    return absl::FailedPreconditionError(
        absl::StrCat("precision: checkpoint ", id,
                     " was written with another one; a run keeps the precision it began with"));
  }
  VITSCALE_RETURN_IF_ERROR(CheckSameData(manifest));
  VITSCALE_RETURN_IF_ERROR(ReadState(parts.name));
  VITSCALE_RETURN_IF_ERROR(CheckDigest(manifest));
  done->step = manifest.name.step;
  parent_ = manifest.parent;
  const std::vector<std::string> differences = ChangedSince(manifest);
  if (!differences.empty()) {
    done->notice = absl::StrCat("resumes, not bit-exact: ", absl::StrJoin(differences, "; "));
    VITSCALE_LOG(WARNING) << done->notice;
  }
  return absl::OkStatus();
}

absl::Status Engine::CompareVersions(Synchronised* done) {
  const WireVersion own{generation_.generation, done->step, done->digest, done->lineage};
  VITSCALE_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      collective()->AllGather(absl::string_view(reinterpret_cast<const char*>(&own), sizeof(own)),
                              kLoadTimeout));
  std::vector<link::StateVersion> versions;
  for (const std::string& bytes : all) {
    WireVersion version;
    std::memcpy(&version, bytes.data(), sizeof(version));
    versions.push_back(
        {version.established_generation, version.step, version.digest, version.lineage});
  }
  return CheckVersions(versions);
}

absl::Status Engine::StartLoader(int64_t step) {
  const int64_t left = lengths_.total_steps - step;
  if (left <= 0) return absl::OkStatus();
  const int64_t micro = replica_->plan().request.batch_micro;
  auto loader = std::make_shared<BatchLoader>(
      *train_, TrainBatches(*order_, job_.seed, job_.preprocess, ranges_, step, left),
      LoaderOptionsFor(*train_, micro, options_.setup.threads));
  absl::MutexLock lock(&mutex_);
  loader_ = std::move(loader);
  if (aborted_) loader_->Cancel();
  return absl::OkStatus();
}

}  // namespace vitscale
