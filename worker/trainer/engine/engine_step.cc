// A step in two parts, leaving. See engine.h.

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"
#include "worker/plan/schedule.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {
namespace {

constexpr absl::Duration kLeaveTimeout = absl::Seconds(10);

// The same for any number of ranks when added up: a bag of (place, sample).
uint64_t HashSamples(const Batch& batch) {
  uint64_t sum = 0;
  for (size_t i = 0; i < batch.samples.size(); ++i) {
    sum += CombineHash(MixBits(batch.first + static_cast<int64_t>(i)), batch.samples[i]);
  }
  return sum;
}

}  // namespace

// Hears from the program what is done: starts the sum of each bucket, and cuts time into phases.
class Engine::StepSink : public MarkerSink {
 public:
  StepSink(Engine& engine, Collective& collective, ControlRecord& record)
      : engine_(engine),
        collective_(collective),
        record_(record),
        since_(engine.options_.clock->Monotonic()) {}

  void OnGradientsReady(int bucket) override {
    if (record_.arrival_micros == 0) {
      record_.arrival_micros = static_cast<int64_t>(1e6 * engine_.Seconds(engine_.exchange_left_));
    }
    const Faults::Place place = engine_.PlaceOf(record_.step, bucket);
    if (engine_.faults_.At("bucket", place, "fail_collective")) collective_.Abort();
    if (engine_.faults_.At("step", place, "nan"))
      VITSCALE_CHECK(engine_.replica_->SpoilBucket(bucket).ok()) << "bucket " << bucket;
    collective_.Start(bucket, engine_.replica_->BucketValues(bucket));
  }
  void OnPhase(const std::string& name) override { Enter(name); }

  void Enter(const std::string& phase) {
    const absl::Time now = engine_.options_.clock->Monotonic();
    if (!phase_.empty()) seconds_[phase_] += absl::ToDoubleSeconds(now - since_);
    since_ = now;
    phase_ = phase;
  }
  std::map<std::string, double> Finish() {
    Enter("");
    return std::move(seconds_);
  }

 private:
  Engine& engine_;
  Collective& collective_;
  ControlRecord& record_;
  absl::Time since_;
  std::string phase_;
  std::map<std::string, double> seconds_;
};

CoreEvent Engine::DoStep(const StepOp& op) {
  Exchanged done;
  ControlRecord record = op.record;
  const auto collective = this->collective();
  faults_.At("step", PlaceOf(record.step));
  static_cast<Outcome&>(done) = RunPartOne(record, &done);
  if (!done.status.ok()) {
    collective->Abort();  // buckets under way must not wait for what will never come
    return done;
  }
  if (faults_.At("exchange", PlaceOf(record.step), "fail_collective")) collective->Abort();
  const absl::Time began = options_.clock->Monotonic();
  auto records = collective->ExchangeRecords(record, op.timeout);
  exchange_left_ = options_.clock->Monotonic();
  done.phase_seconds["allreduce_exposed"] = Seconds(began);
  AddPhases(done.phase_seconds);
  if (!records.ok()) {
    static_cast<Outcome&>(done) =
        CollectiveOutcome(Annotate(records.status(), absl::StrCat("step ", record.step)));
    return done;
  }
  faults_.At("gate", PlaceOf(record.step));
  done.records = *std::move(records);
  if (options_.on_exchange) {
    uint64_t samples = 0;
    for (const ControlRecord& each : done.records) samples += each.samples_hash;
    options_.on_exchange(record.step, samples);
  }
  return done;
}

Outcome Engine::RunPartOne(ControlRecord& record, Exchanged* done) {
  const auto collective = this->collective();
  std::shared_ptr<BatchLoader> loader;
  {
    absl::MutexLock lock(&mutex_);
    loader = loader_;
  }
  StepSink sink(*this, *collective, record);
  const int64_t count = static_cast<int64_t>(ranges_.size());
  for (int64_t i = 0; i < count; ++i) {
    sink.Enter("input");
    const absl::Time began = options_.clock->Monotonic();
    if (absl::Status status = loader->Next(&batch_); !status.ok()) {
      return {status, absl::IsCancelled(status) ? Fault::kCollective : Fault::kData, {}};
    }
    done->input_wait_seconds += Seconds(began);
    record.images += batch_.size();
    record.samples_hash += HashSamples(batch_);
    if (absl::Status status = replica_->RunMicroBatch(batch_, i, count, &sink); !status.ok()) {
      return {Annotate(status, absl::StrCat("step ", record.step)), Fault::kDevice, {}};
    }
  }
  done->phase_seconds = sink.Finish();
  auto sums = replica_->Sums();
  if (!sums.ok()) return {sums.status(), Fault::kDevice, {}};
  if (faults_.At("step", PlaceOf(record.step), "nan_loss"))
    sums->loss = std::numeric_limits<double>::quiet_NaN();
  record.set_loss_sum(sums->loss);
  record.correct = sums->correct;
  record.set(RecordFlag::kNonFinite, !std::isfinite(sums->loss));
  absl::MutexLock lock(&mutex_);
  totals_.images += record.images;
  totals_.input_wait_seconds += done->input_wait_seconds;
  return {};
}

CoreEvent Engine::DoClosing(const ClosingOp& op) {
  Exchanged done;
  auto records = collective()->ExchangeRecords(op.record, op.timeout);
  if (records.ok()) {
    done.records = *std::move(records);
  } else {
    static_cast<Outcome&>(done) = CollectiveOutcome(Annotate(records.status(), "closing exchange"));
  }
  return done;
}

CoreEvent Engine::DoApply(const ApplyOp& op) {
  Applied done;
  const absl::Time began = options_.clock->Monotonic();
  StepScalars scalars;
  scalars.step = op.step - 1;
  const double factor = ScheduleFactor(lengths_.schedule, scalars.step);
  scalars.schedule = factor;
  scalars.beta2 = AdafactorBeta2(scalars.step, job_.optimizer.beta2_cap);
  scalars.gradient_scale = 1.0f / static_cast<float>(job_.batch_global);
  scalars.apply = op.apply ? 1 : 0;
  const auto norms = replica_->Update(scalars);
  if (!norms.ok()) {
    static_cast<Outcome&>(done) = {
        Annotate(norms.status(), absl::StrCat("update ", op.step)), Fault::kDevice, {}};
    return done;
  }
  faults_.At("applied", PlaceOf(op.step));
  done.gradient_norm = norms->gradient;
  done.parameter_norm = norms->parameter;
  done.learning_rate = job_.optimizer.learning_rate * factor;
  done.skipped = !op.apply || !std::isfinite(norms->gradient);
  done.update_norm = done.skipped ? 0 : norms->update;  // the statistic is that of the last update
  if (op.want_digest) {
    const auto digest = replica_->Digest();
    if (!digest.ok()) {
      static_cast<Outcome&>(done) = {digest.status(), Fault::kDevice, {}};
      return done;
    }
    done.digest = *digest;
  }
  done.phase_seconds["optimizer"] = Seconds(began);
  AddPhases(done.phase_seconds);
  return done;
}

CoreEvent Engine::DoLeave() {
  Left done;
  static_cast<Outcome&>(done) = CollectiveOutcome(collective()->Barrier(kLeaveTimeout));
  return done;
}

}  // namespace vitscale
