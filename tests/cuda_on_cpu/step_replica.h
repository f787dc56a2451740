// A small replica of a model on one backend, for tests of whole steps: programs as worker/model
// builds them, input and parameters from a seed.

#ifndef TESTS_CUDA_ON_CPU_STEP_REPLICA_H_
#define TESTS_CUDA_ON_CPU_STEP_REPLICA_H_

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/backend_factory.h"
#include "kernels/base/philox.h"
#include "tests/kernels/kernels_test_util.h"
#include "worker/model/vit.h"
#include "worker/plan/plan.h"
#include "worker/plan/schedule.h"

namespace vitscale {

using Bytes = std::vector<std::byte>;

inline constexpr int64_t kMicroBatches = 2;

// A model, and how it is trained.
struct StepCase {
  const char* name;
  int head_dim;  // of the models mu 16, s 32, Ti to L 64, So400m 72, H 80, g 88, g-opt 96, G 104, e
                 // 112
  PoolKind pool;
  LossKind loss;
  LabelKind labels = LabelKind::kClassId;
  OptimizerKind optimizer = OptimizerKind::kAdafactor;
  PositionKind position = PositionKind::kLearned;
  int representation = 0;
  DType residual = DType::kF32;
  RecomputeLevel recompute = RecomputeLevel::kAuto;
};

// Plans for cards pad logits: 11 classes become rows of 16.
inline PlanRequest RequestOf(const StepCase& c, Precision precision, DeviceKind device) {
  PlanRequest request;
  request.model.SetShape(
      {.patch = 4, .width = 2 * c.head_dim, .depth = 2, .heads = 2, .mlp_width = 72});
  request.model.image_size = 13;
  request.model.classes = 11;
  request.model.pool = c.pool;
  request.model.loss = c.loss;
  request.model.position = c.position;
  request.model.representation_size = c.representation;
  request.model.residual = c.residual;
  request.recompute = c.recompute;
  request.source_height = 15;
  request.source_width = 14;
  request.optimizer = c.optimizer;
  request.precision = precision;
  request.batch_micro = 3;
  request.batch_global = kMicroBatches * request.batch_micro;
  request.labels = c.labels;
  request.sparse_labels_per_image = 2;
  request.polyak = true;
  request.device = device;
  return request;
}

inline OptimizerConfig OptimizerOf(const StepCase& c) {
  OptimizerConfig optimizer;
  optimizer.kind = c.optimizer;
  optimizer.learning_rate = 1e-2;
  optimizer.polyak_decay = 0.5;
  return optimizer;
}

template <typename T>
Bytes BytesOf(const std::vector<T>& values) {
  const auto* begin = reinterpret_cast<const std::byte*>(values.data());
  return {begin, begin + values.size() * sizeof(T)};
}
inline std::vector<float> FloatsOf(const Bytes& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

inline TensorView WholeArena(Arena arena, int64_t bytes) {
  return {ArenaName(arena), arena, 0, DType::kU8, {bytes}};
}

// A replica on one backend.
class StepReplica {
 public:
  StepReplica(const StepCase& c, Precision precision, DeviceKind device, const BackendMaker& make)
      : case_(c) {
    plan_ = MakePlan(RequestOf(c, precision, device)).value();
    auto backend = make();
    Check(backend.status());
    backend_ = *std::move(backend);
    Check(backend_->Allocate(plan_.arena_bytes));
    Check(WriteConstants(plan_.layout, *backend_));
    for (int i = 0; i < kMicroBatches; ++i) {
      steps_.push_back(Prepared(BuildStep(plan_.layout, {i == 0, i == kMicroBatches - 1})));
    }
    update_ = Prepared(BuildUpdate(plan_.layout, OptimizerOf(c)));
    prepare_ = Prepared(BuildPrepare(plan_.layout));
    eval_ = Prepared(BuildEval(plan_.layout, /*first=*/true));
    digest_ = Prepared(BuildDigest(plan_.layout));
    WriteParameters();
  }

  const Plan& plan() const { return plan_; }
  uint64_t choices() const { return steps_.front()->choices(); }
  const ParamTable& table() const { return plan_.layout.table; }

  void Step(uint64_t seed, MarkerSink* sink = nullptr) {
    for (int i = 0; i < kMicroBatches; ++i) {
      WriteInput(seed + static_cast<uint64_t>(i));
      Run(*steps_[i], {}, sink);
    }
  }
  void Update(int64_t step, int apply = 1) {
    StepScalars scalars;
    scalars.step = step;
    scalars.beta2 = AdafactorBeta2(step, 0.999);
    scalars.gradient_scale = 1.0f / static_cast<float>(kMicroBatches * plan_.layout.batch);
    scalars.apply = apply;
    Run(*update_, scalars);
    Run(*prepare_);
  }
  double Evaluate(uint64_t seed) {
    WriteInput(seed);
    Run(*eval_);
    return Scalar<double>(plan_.layout.statistics.eval_loss_sum);
  }
  int64_t Digest() {
    Run(*digest_);
    return Scalar<int64_t>(plan_.layout.statistics.digest);
  }
  double LossSum() { return Scalar<double>(plan_.layout.statistics.loss_sum); }
  int64_t Correct() { return Scalar<int64_t>(plan_.layout.statistics.correct); }

  Bytes Read(const TensorView& view) {
    Bytes bytes(view.bytes());
    Check(backend_->Read(view, absl::MakeSpan(bytes)));
    return bytes;
  }
  Bytes ReadArena(Arena arena) { return Read(WholeArena(arena, plan_.arena_bytes[int(arena)])); }
  void WriteArena(Arena arena, const Bytes& bytes) {
    Check(backend_->Write(WholeArena(arena, plan_.arena_bytes[int(arena)]), bytes));
  }
  template <typename T>
  T Scalar(const TensorView& view) {
    const Bytes bytes = Read(view);
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

 private:
  static void Check(const absl::Status& status) { ASSERT_TRUE(status.ok()) << status; }
  void Run(PreparedProgram& program, const StepScalars& scalars = {}, MarkerSink* sink = nullptr) {
    Check(backend_->Run(program, scalars, sink));
  }
  std::unique_ptr<PreparedProgram> Prepared(Program program) {
    auto prepared = backend_->Prepare(std::move(program));
    Check(prepared.status());
    return *std::move(prepared);
  }
  template <typename T>
  void Write(const TensorView& view, const std::vector<T>& values) {
    Check(backend_->Write(view, BytesOf(values)));
  }
  // As a trainer would begin, but for what it begins with as zero: heads and biases are drawn too.
  void WriteParameters() {
    for (size_t i = 0; i < table().parameters().size(); ++i) {
      const Parameter& p = table().parameters()[i];
      std::vector<float> values(p.elements());
      InitializeParameter(table(), static_cast<int>(i), 1, absl::MakeSpan(values));
      const Doubles more = NormalValues(p.elements(), 0.1, i);
      for (size_t j = 0; j < values.size(); ++j) values[j] += static_cast<float>(more[j]);
      Write(table().ParameterView(p), values);
    }
    Run(*prepare_);
  }
  void WriteInput(uint64_t seed);
  void WriteLabels(Draws& draws);

  const StepCase case_;
  Plan plan_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<PreparedProgram>> steps_;
  std::unique_ptr<PreparedProgram> update_, prepare_, eval_, digest_;
};

inline void StepReplica::WriteInput(uint64_t seed) {
  Draws draws(seed, DrawPurpose::kTest, 0, 0);
  const InputViews& input = plan_.layout.input;
  std::vector<uint8_t> images(input.images.bytes());
  for (uint8_t& pixel : images) pixel = static_cast<uint8_t>(draws.Below(256));
  Write(input.images, images);
  std::vector<int32_t> augment;
  for (int64_t i = 0; i < plan_.layout.batch; ++i) {
    for (const int64_t choices : {3, 2, 2}) {  // rows and columns that may be cut off; a flip
      augment.push_back(static_cast<int32_t>(draws.Below(choices)));
    }
  }
  Write(input.augment, augment);
  std::vector<float> valid(plan_.layout.batch, 1.0f);
  valid.back() = 0.0f;
  Write(input.valid, valid);
  WriteLabels(draws);
}

inline void StepReplica::WriteLabels(Draws& draws) {
  const Labels& labels = plan_.layout.input.labels;
  const int classes = plan_.layout.model.classes;
  if (labels.kind == LabelKind::kDense) {
    std::vector<float> dense(labels.dense.elements());
    for (float& value : dense) value = static_cast<float>(draws.Below(4)) / 4;
    return Write(labels.dense, dense);
  }
  std::vector<int32_t> ids(labels.ids.elements());
  for (int32_t& id : ids) id = static_cast<int32_t>(draws.Below(classes));
  Write(labels.ids, ids);
  if (labels.kind != LabelKind::kSparse) return;
  std::vector<int32_t> offsets = {0, 2, 3, 6};  // two labels, one, three
  ASSERT_EQ(static_cast<int64_t>(offsets.size()), labels.offsets.elements());
  Write(labels.offsets, offsets);
}

inline BackendMaker CpuMaker(Precision precision) {
  BackendOptions options;
  options.threads = 1;
  options.bf16 = precision == Precision::kBf16;
  return [options] { return CreateBackend(options); };
}

}  // namespace vitscale

#endif  // TESTS_CUDA_ON_CPU_STEP_REPLICA_H_
