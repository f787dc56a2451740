// A replica on the CPU for tests of whole programs: plan, backend, prepared programs, and images
// made from a seed.

#ifndef TESTS_WORKER_MODEL_REPLICA_H_
#define TESTS_WORKER_MODEL_REPLICA_H_

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "kernels/backend_factory.h"
#include "kernels/base/philox.h"
#include "tests/status_matchers.h"
#include "worker/model/vit.h"
#include "worker/plan/plan.h"

namespace vitscale {

// Images of one step, in the order of the batch.
struct TestBatch {
  std::vector<uint8_t> images;
  std::vector<int32_t> augment;
  std::vector<int32_t> labels;
};
inline TestBatch MakeTestBatch(const PlanRequest& r, int64_t count, uint64_t seed) {
  TestBatch batch;
  Draws draws(seed, DrawPurpose::kTest, 0, 0);
  batch.images.resize(count * r.source_height * r.source_width * r.model.channels);
  for (uint8_t& pixel : batch.images) pixel = static_cast<uint8_t>(draws.Below(256));
  for (int64_t i = 0; i < count; ++i) {
    batch.augment.push_back(
        static_cast<int32_t>(draws.Below(r.source_height - r.model.image_size + 1)));
    batch.augment.push_back(
        static_cast<int32_t>(draws.Below(r.source_width - r.model.image_size + 1)));
    batch.augment.push_back(static_cast<int32_t>(draws.Below(2)));
    batch.labels.push_back(static_cast<int32_t>(draws.Below(r.model.classes)));
  }
  return batch;
}

class Replica {
 public:
  explicit Replica(const PlanRequest& request, int threads = 1,
                   const OptimizerConfig& optimizer = {})
      : plan(MakePlan(request).value()) {
    BackendOptions options;
    options.threads = threads;
    options.bf16 = request.precision == Precision::kBf16;
    backend = CreateBackend(options).value();
    Check(backend->Allocate(plan.arena_bytes));
    Check(WriteConstants(plan.layout, *backend));
    // The programs that name weights first; Prepare of BuildPrepare's program may then know them
    // all.
    for (int first = 0; first < 2; ++first) {
      for (int last = 0; last < 2; ++last) {
        step_[first][last] =
            backend->Prepare(BuildStep(plan.layout, {first == 1, last == 1})).value();
      }
      eval_[first] = backend->Prepare(BuildEval(plan.layout, first == 1)).value();
    }
    update_ = backend->Prepare(BuildUpdate(plan.layout, optimizer)).value();
    prepare_ = backend->Prepare(BuildPrepare(plan.layout)).value();
    std::vector<float> ones(plan.layout.batch, 1.0f);
    WriteAll(plan.layout.input.valid, ones);
  }

  absl::Span<float> Parameters() { return Floats(Arena::kParameters); }
  absl::Span<float> Gradients() { return Floats(Arena::kGradients); }
  absl::Span<float> ParameterOf(const Parameter& p) {
    return Parameters().subspan(p.offset_elements, p.elements());
  }
  absl::Span<float> GradientOf(const Parameter& p) {
    return Gradients().subspan(p.gradient_offset, p.elements());
  }

  // After a change of parameters that is not an update.
  void PrepareWeights() { Run(*prepare_); }

  // All micro-batches of a batch; the loss sum.
  double Step(const TestBatch& batch) {
    const int64_t count = static_cast<int64_t>(batch.labels.size()) / plan.layout.batch;
    for (int64_t i = 0; i < count; ++i) {
      Feed(batch, i);
      Run(*step_[i == 0][i == count - 1]);
    }
    return Scalar<double>(plan.layout.statistics.loss_sum);
  }
  double Eval(const TestBatch& batch) {
    const int64_t count = static_cast<int64_t>(batch.labels.size()) / plan.layout.batch;
    for (int64_t i = 0; i < count; ++i) {
      Feed(batch, i);
      Run(*eval_[i == 0]);
    }
    return Scalar<double>(plan.layout.statistics.eval_loss_sum);
  }
  // Of the last micro-batch of the last Eval, [batch, classes]. The loss reads them at the very
  // end, so nothing has been written over them.
  std::vector<float> Logits() {
    const Program program = BuildEval(plan.layout, /*first=*/true);
    TensorView logits;
    for (const Op& op : program.ops()) {
      if (const auto* loss = std::get_if<SigmoidLossArgs>(&op)) logits = loss->logits;
      if (const auto* loss = std::get_if<SoftmaxLossArgs>(&op)) logits = loss->logits;
    }
    std::vector<float> values(logits.elements());
    Check(backend->Read(
        logits, {reinterpret_cast<std::byte*>(values.data()), values.size() * sizeof(float)}));
    return values;
  }
  void Update(const StepScalars& scalars) { Check(backend->Run(*update_, scalars, nullptr)); }
  template <typename T>
  T Scalar(const TensorView& view) {
    T value;
    Check(backend->Read(view, {reinterpret_cast<std::byte*>(&value), sizeof(T)}));
    return value;
  }

  Plan plan;
  std::unique_ptr<Backend> backend;

 private:
  static void Check(const absl::Status& status) { ASSERT_TRUE(status.ok()) << status; }
  void Run(PreparedProgram& program) { Check(backend->Run(program, StepScalars{}, nullptr)); }
  absl::Span<float> Floats(Arena arena) {
    const absl::Span<std::byte> bytes = backend->HostBytes(arena);
    return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
  }
  template <typename T>
  void WriteAll(const TensorView& view, absl::Span<const T> values) {
    Check(backend->Write(
        view, {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)}));
  }
  template <typename T>
  void WriteAll(const TensorView& view, const std::vector<T>& values) {
    WriteAll(view, absl::MakeConstSpan(values));
  }
  template <typename T>
  void WritePart(const TensorView& view, const std::vector<T>& values, int64_t part) {
    WriteAll(view, absl::MakeConstSpan(values).subspan(part * view.elements(), view.elements()));
  }
  void Feed(const TestBatch& batch, int64_t micro_batch) {
    WritePart(plan.layout.input.images, batch.images, micro_batch);
    WritePart(plan.layout.input.augment, batch.augment, micro_batch);
    WritePart(plan.layout.input.labels.ids, batch.labels, micro_batch);
  }

  std::unique_ptr<PreparedProgram> step_[2][2], eval_[2], update_, prepare_;
};

}  // namespace vitscale

#endif  // TESTS_WORKER_MODEL_REPLICA_H_
