// Carries out what the trainer's core decides: one operation at a time, on one thread.
//
// Run blocks until the operation has ended and returns the event that says how. Abort may come from
// another thread at any time and makes a waiting operation fail. Everything a rank owns is here:
// data, replica, communicator, checkpoint folder and its writer. No decision is: what an error
// means is the core's business, whose fault it is stands in Outcome.

#ifndef WORKER_TRAINER_ENGINE_ENGINE_H_
#define WORKER_TRAINER_ENGINE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/clock.h"
#include "kernels/base/files.h"
#include "kernels/communicator.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/collective/collective.h"
#include "worker/collective/rendezvous.h"
#include "worker/collective/transport.h"
#include "worker/config/job_config.h"
#include "worker/data/loader.h"
#include "worker/data/sample_order.h"
#include "worker/data/source.h"
#include "worker/trainer/core/events.h"
#include "worker/trainer/engine/checkpoint_writer.h"
#include "worker/trainer/engine/faults.h"
#include "worker/trainer/engine/replica.h"

namespace vitscale {

struct EngineOptions {
  link::TrainerSetup setup;
  int data_port = 0;                       // of the data-plane listener; 0: any
  int64_t bucket_bytes = 0;                // of gradients; 0: the planner's choice
  Transport transport = Transport::kAuto;  // equal on all ranks
  uint64_t pretended_host = 0;             // see SharedMemoryOptions::host
  // A person has chosen the device, no agent: one that is not there is their configuration, not a
  // broken worker.
  bool by_hand = false;
  Clock* clock = &RealClock();
  FileSystem* fs = &PosixFileSystem();
  // Outcomes of the checkpoint writer, on its thread.
  std::function<void(CoreEvent)> post;
  // After every exchange of a step: a hash of the samples of all ranks, the same for any number of
  // them.
  std::function<void(int64_t step, uint64_t samples_hash)> on_exchange;
};

// Since the start; for metrics.
struct EngineTotals {
  std::map<std::string, double> phase_seconds;
  int64_t images = 0;  // of this rank
  double input_wait_seconds = 0;
  int64_t data_read_bytes = 0;
  // Handed over to collectives of several ranks, by their algorithm without the ranks' hosts.
  std::map<std::string, int64_t> collective_bytes;
};

class Engine {
 public:
  explicit Engine(EngineOptions options);
  ~Engine();

  CoreEvent Run(const Action& operation);
  void Abort();
  // Between operations.
  void DropCollective();
  void WriteManifest(const WriteManifestNote& note);
  void AbandonSave(const AbandonSaveNote& note);

  // Thread-safe.
  EngineTotals totals() const;
  CheckpointWriter::Totals checkpoint_totals() const;
  // Of a prepared engine; for the table that is printed at start.
  const Plan* plan() const { return replica_ ? &replica_->plan() : nullptr; }
  const JobConfig& job() const { return job_; }
  int64_t total_steps() const { return lengths_.total_steps; }

 private:
  struct EvalSet {
    std::unique_ptr<ImageSource> source;
    std::unique_ptr<ImageSource> support;  // few-shot: what the shots are drawn from
    Preprocess preprocess;
  };
  // The checkpoint that the job starts from.
  struct Parent {
    CheckpointStore store;
    CheckpointManifest manifest;
    std::string id;
    // Weights alone, or all that is asked of them is to be evaluated: any precision will do.
    bool FreeOfPrecision(const JobConfig& job) const {
      return manifest.weights_only || job.kind == JobKind::kEvaluate;
    }
  };
  class StepSink;

  // ---- engine_prepare.cc ----
  CoreEvent DoPrepare(const PrepareOp& op);
  Outcome OpenAll(const link::DesiredState& desired);
  absl::Status OpenData();
  absl::Status OpenCheckpoints(const link::DesiredState& desired);
  absl::StatusOr<Precision> ResolvePrecision(const link::DesiredState& desired,
                                             const BackendOptions& backend) const;
  link::NumericsRecord Numerics() const;
  // NumericsDifferences; empty: bits go on as if the run had never stopped.
  std::vector<std::string> ChangedSince(const CheckpointManifest& manifest) const;
  RunFacts Facts() const;
  CoreEvent DoList();

  // ---- engine_replica.cc ----
  Outcome MakeReplica(const link::DesiredState& desired);
  Fault FaultOfDevice(const absl::Status& status) const;
  absl::Status CheckSums() const;
  absl::StatusOr<Plan> ChoosePlan(PlanRequest request, int64_t memory_bytes) const;
  uint64_t RunHash(const ImageSource& source) const;
  absl::Status PreparePrograms();

  // ---- engine_from.cc ----
  bool evaluates() const { return job_.kind == JobKind::kEvaluate; }
  static Fault FaultOfStart(const absl::Status& status);
  Outcome OpenFrom();
  absl::Status OpenParent();
  absl::Status CheckHeadsClasses() const;
  absl::Status CheckParent(const CheckpointManifest& parent) const;
  absl::Status LoadFrom(Synchronised* done);
  int64_t ImagesAfter(int64_t step) const;

  // ---- engine_meet.cc ----
  MeetingOptions Meeting(const link::DesiredState& desired) const;
  absl::Status Connect(std::shared_ptr<Collective> created, absl::Duration timeout);
  absl::Status Meet(const link::DesiredState& desired, absl::Duration timeout);
  absl::Status MeetOnCards(const MeetingOptions& meeting, absl::Duration timeout);
  Outcome MeetingOutcome(const absl::Status& status) const;
  CommunicatorOptions CommunicatorOf() const;

  // ---- engine_synchronise.cc ----
  CoreEvent DoSynchronise(const SynchroniseOp& op);
  absl::Status CheckShared(const link::DesiredState& desired, Fault* fault);
  Outcome Load(const link::Source& source, Synchronised* done);
  Outcome AgreeOnLoad(Outcome own, Synchronised* done);
  absl::Status CheckSameData(const CheckpointManifest& manifest) const;
  absl::Status ReadState(const CheckpointName& name);
  absl::Status CheckDigest(const CheckpointManifest& manifest);
  absl::Status LoadCheckpoint(const std::string& id, Synchronised* done);
  absl::Status CompareVersions(Synchronised* done);
  absl::Status StartLoader(int64_t step);

  // ---- engine_step.cc ----
  CoreEvent DoStep(const StepOp& op);
  Outcome RunPartOne(ControlRecord& record, Exchanged* done);
  CoreEvent DoClosing(const ClosingOp& op);
  CoreEvent DoApply(const ApplyOp& op);
  CoreEvent DoLeave();
  void AddPhases(const std::map<std::string, double>& seconds);
  static void AddHandedOver(const Collective* collective, EngineTotals& totals);

  // ---- engine_eval.cc ----
  absl::StatusOr<EvalSet> OpenEval(const EvalConfig& eval, SourceRequest request) const;
  absl::Status PrepareEvals();
  CoreEvent DoEvaluate(const EvaluateOp& op);
  absl::Status MeasureOwnHead(const EvalSet& set, link::EvalRecord* record,
                              bool* collective_failed);
  absl::Status MeasureFewShot(const FewShotConfig& config, const EvalSet& set,
                              link::EvalRecord* record, bool* collective_failed);

  // ---- engine_save.cc ----
  CoreEvent DoSnapshot(const SnapshotOp& op);
  CoreEvent DoEmergencySave(const EmergencySaveOp& op);
  absl::StatusOr<std::vector<SnapshotTensor>> CopyShare(int rank, int world_size);
  CheckpointManifest ManifestFor(const CheckpointName& name, uint64_t digest) const;

  Outcome CollectiveOutcome(const absl::Status& status) const;
  double Seconds(absl::Time from) const {
    return absl::ToDoubleSeconds(options_.clock->Monotonic() - from);
  }
  Faults::Place PlaceOf(int64_t step, int64_t bucket = -1) const {
    return {step, bucket, generation_.rank, generation_.generation};
  }

  const EngineOptions options_;
  Faults faults_;

  // From PREPARE on.
  std::unique_ptr<RendezvousListener> listener_;
  std::string job_id_;
  JobConfig job_;
  RunLengths lengths_;
  std::unique_ptr<ImageSource> train_;
  std::vector<EvalSet> evals_;
  std::optional<SampleOrder> order_;
  std::string device_ = "cpu";  // as a backend calls it
  std::unique_ptr<Replica> replica_;
  Precision precision_ = Precision::kF32;
  uint64_t run_hash_ =
      0;  // of all that must be equal on all ranks: plan, spec, data, numeric class
  std::optional<CheckpointStore> store_;  // none for an evaluation
  std::optional<Parent>
      from_;  // opened when it is needed: not where the job has its own checkpoints
  std::unique_ptr<CheckpointWriter> writer_;

  // Of the generation.
  link::DesiredState generation_;
  std::string algorithm_;  // of its sums; empty until its ranks have met
  std::string parent_;     // of the lineage
  std::vector<BatchRange> ranges_;
  absl::Time exchange_left_;
  Batch batch_;

  mutable absl::Mutex mutex_;
  std::shared_ptr<Collective> collective_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<BatchLoader> loader_ ABSL_GUARDED_BY(mutex_);
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
  EngineTotals totals_ ABSL_GUARDED_BY(mutex_);

  bool aborted() const {
    absl::MutexLock lock(&mutex_);
    return aborted_;
  }
  std::shared_ptr<Collective> collective() const {
    absl::MutexLock lock(&mutex_);
    return collective_;
  }
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_ENGINE_ENGINE_H_
