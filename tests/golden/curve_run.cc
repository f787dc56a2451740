#include "tests/golden/curve_run.h"

#include <utility>

#include "kernels/base/files.h"
#include "kernels/base/status.h"
#include "worker/plan/schedule.h"

namespace vitscale::golden {
namespace {

constexpr int64_t kMicroBatch = 128;

absl::StatusOr<std::unique_ptr<Replica>> OpenReplica(const JobConfig& job,
                                                     const ImageSource& source) {
  PlanRequest request = PlanRequestFor(job, Precision::kF32);
  request.source_height = source.height();
  request.source_width = source.width();
  request.batch_micro = kMicroBatch;
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
  BackendOptions backend;
  backend.threads = 2;
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<Replica> replica,
                            Replica::Create(backend, plan, job.optimizer));
  VITSCALE_RETURN_IF_ERROR(replica->PrepareSteps(job.batch_global / kMicroBatch));
  VITSCALE_RETURN_IF_ERROR(replica->Initialise(job.seed));
  return replica;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CurveRun>> CurveRun::Open() {
  std::unique_ptr<CurveRun> run(new CurveRun);
  VITSCALE_ASSIGN_OR_RETURN(run->job_, LoadJobConfig(VITSCALE_CURVE_JOB, {"precision=f32"}));
  SourceRequest request;
  request.classes = run->job_.model.classes;
  request.height = request.width = run->job_.model.image_size;
  request.channels = run->job_.model.channels;
  VITSCALE_ASSIGN_OR_RETURN(
      run->source_, OpenSource(PosixFileSystem(), {kFashionMnistRoot}, run->job_.train, request));
  VITSCALE_ASSIGN_OR_RETURN(run->lengths_, ResolveLengths(run->job_, run->source_->size()));
  VITSCALE_ASSIGN_OR_RETURN(
      const SampleOrder order,
      SampleOrder::Create(run->job_.seed, run->source_->size(), run->job_.batch_global));
  run->order_ = std::make_unique<SampleOrder>(order);
  VITSCALE_ASSIGN_OR_RETURN(run->replica_, OpenReplica(run->job_, *run->source_));
  return run;
}

absl::Status CurveRun::Train(const BatchSequence& batches, CurveStep& step) {
  Batch batch;
  for (int64_t i = 0; i < batches.count; ++i) {
    const BatchSpec spec = batches.at(i);
    VITSCALE_RETURN_IF_ERROR(FillBatch(*source_, spec, &batch));
    for (const SampleSpec& sample : spec.samples) {
      step.samples.push_back(sample.sample);
      step.flips.push_back(sample.flip ? 1 : 0);
    }
    VITSCALE_RETURN_IF_ERROR(replica_->RunMicroBatch(batch, i, batches.count, nullptr));
  }
  return absl::OkStatus();
}

absl::StatusOr<CurveStep> CurveRun::Step() {
  std::vector<BatchRange> ranges;
  for (int64_t first = 0; first < job_.batch_global; first += kMicroBatch) {
    ranges.push_back({first, kMicroBatch});
  }
  CurveStep step;
  VITSCALE_RETURN_IF_ERROR(
      Train(TrainBatches(*order_, job_.seed, job_.preprocess, ranges, step_, 1), step));
  VITSCALE_ASSIGN_OR_RETURN(const StepSums sums, replica_->Sums());
  step.loss = sums.loss / job_.batch_global;
  StepScalars scalars;
  scalars.step = step_;
  scalars.schedule = ScheduleFactor(lengths_.schedule, step_);
  scalars.beta2 = AdafactorBeta2(step_, job_.optimizer.beta2_cap);
  scalars.gradient_scale = 1.0f / static_cast<float>(job_.batch_global);
  VITSCALE_RETURN_IF_ERROR(replica_->Update(scalars).status());
  ++step_;
  return step;
}

}  // namespace vitscale::golden
