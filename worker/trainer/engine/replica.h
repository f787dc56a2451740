// The model of one rank on one device: arenas, programs and state. Knows steps, not generations:
// the trainer decides what is run, a replica runs it.
//
// Not thread-safe: one thread drives it. All errors of a device are INTERNAL.

#ifndef WORKER_TRAINER_ENGINE_REPLICA_H_
#define WORKER_TRAINER_ENGINE_REPLICA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/backend_factory.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/data/loader.h"
#include "worker/eval/eval_model.h"
#include "worker/model/optimizer_config.h"
#include "worker/plan/plan.h"

namespace vitscale {

// A tensor of the state (what survives a step) under the name it has in checkpoints.
struct StateTensor {
  std::string name;  // "params/…", "momentum/…", "second_moment/…", "average/…"
  TensorView view;   // dtype, shape and place on the device
};

struct StepSums {
  double loss = 0;  // over the images of this rank's micro-batches
  int64_t correct = 0;
};

struct UpdateNorms {
  double gradient = 0;  // of the mean gradient, before the clip; not finite: the update was skipped
  double parameter = 0, update = 0;
};

class Replica : public EvalModel, public FeatureModel {
 public:
  // Allocates the arenas of `plan` on a new backend and prepares what does not depend on the number
  // of ranks.
  static absl::StatusOr<std::unique_ptr<Replica>> Create(const BackendOptions& backend,
                                                         const Plan& plan,
                                                         const OptimizerConfig& optimizer);

  const Plan& plan() const { return plan_; }
  BackendInfo info() const { return backend_->info(); }

  // Prepares the programs of steps of `count` micro-batches; once per count.
  absl::Status PrepareSteps(int64_t count);
  // PreparedProgram::choices() of all of them; 0: no bit depends on what was measured.
  uint64_t choices() const;

  // ---- state (replica_state.cc) ----
  // Parameters drawn from the seed, moments zero.
  absl::Status Initialise(uint64_t seed);
  // Every tensor of the state, in the order of the param table.
  std::vector<StateTensor> State() const;
  // As many bytes of a tensor as the span has, from `offset` on; after everything that was run.
  absl::Status ReadState(const StateTensor& tensor, int64_t offset, absl::Span<std::byte> to);
  absl::Status WriteState(const StateTensor& tensor, int64_t offset,
                          absl::Span<const std::byte> from);
  // The state as checkpoint files take and give it: the memory itself where the host can address
  // it, else pieces, and then a device that fails is ABORTED: the file is not to blame. Good until
  // the next step; whoever asks for targets is taken to have written to them.
  std::vector<NamedTensor> StateSources();
  std::vector<TensorTarget> StateTargets();
  absl::StatusOr<uint64_t> Digest();

  // ---- a step ----
  // Part 1: micro-batch `number` of `count`. `sink` hears GradientsReady(bucket) during the last.
  absl::Status RunMicroBatch(const Batch& batch, int64_t number, int64_t count, MarkerSink* sink);
  absl::StatusOr<StepSums> Sums();
  int buckets() const { return static_cast<int>(plan_.layout.buckets.size()); }
  // Where they lie: in memory of the host or, for nobody there to touch, of the device.
  absl::Span<float> BucketValues(int bucket);
  // Makes the first value of a bucket NaN; for tests.
  absl::Status SpoilBucket(int bucket);
  // Part 2. The gate is scalars.apply.
  absl::StatusOr<UpdateNorms> Update(const StepScalars& scalars);

  // ---- evaluation ----
  // `range_*`: of the evaluation's preprocessing. Statistics of training stay as they are.
  absl::Status PrepareEval(float range_min, float range_max);
  absl::StatusOr<EvalSums> Evaluate(const Batch& batch) override;
  // The same for Features.
  absl::Status PrepareFeatures(float range_min, float range_max);
  int64_t feature_width() const override;
  absl::Status Features(const Batch& batch, absl::Span<float> features) override;

 private:
  Replica(std::unique_ptr<Backend> backend, Plan plan, OptimizerConfig optimizer)
      : backend_(std::move(backend)), plan_(std::move(plan)), optimizer_(optimizer) {}

  struct StepProgram {
    bool first = false, last = false;
    std::unique_ptr<PreparedProgram> program;
  };
  struct EvalProgram {
    float range_min = 0, range_max = 0;
    bool features_only = false;
    std::unique_ptr<PreparedProgram> program;
    TensorView features;
  };

  // The program for one preprocessing, made when it is first asked for: before the first step.
  absl::StatusOr<EvalProgram*> EvalProgramFor(bool features_only, float range_min, float range_max);
  absl::StatusOr<PreparedProgram*> StepProgramFor(bool first, bool last);
  absl::Status FillWithZeros(Arena arena);
  absl::Span<std::byte> HostMemory(const TensorView& view) const;
  absl::Status RefreshWeights();
  absl::Status WriteInput(const Batch& batch, bool with_valid);
  template <typename T>
  absl::StatusOr<T> ReadScalar(const TensorView& view);

  std::unique_ptr<Backend> backend_;
  const Plan plan_;
  const OptimizerConfig optimizer_;
  std::vector<StepProgram> steps_;
  std::vector<std::unique_ptr<EvalProgram>> evals_;
  EvalProgram *eval_ = nullptr, *features_ = nullptr;  // chosen by PrepareEval, PrepareFeatures
  std::vector<uint16_t> rounded_features_;             // a batch of them, where they are bf16
  std::unique_ptr<PreparedProgram> update_, prepare_, digest_;
  bool weights_current_ = false;  // compute copies are those of the parameters
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_ENGINE_REPLICA_H_
