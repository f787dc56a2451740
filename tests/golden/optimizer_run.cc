#include "tests/golden/optimizer_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/base/bf16.h"
#include "kernels/base/status.h"
#include "tests/golden/counter_draws.h"
#include "worker/plan/schedule.h"

namespace vitscale::golden {
namespace {

// As in optimizer.py.
constexpr uint64_t kSeed = 20210609;
constexpr double kLearningRate = 0.01;
constexpr int64_t kRotation = 7919;
constexpr float kGradientScale = 1.0f / 64;
constexpr double kMomentumDecay = 0.8984375;

bool IsHead(absl::string_view name) {
  return name == "head/kernel" || absl::EndsWith(name, "/head/kernel");
}
double DecayOf(absl::string_view name) {
  if (IsHead(name)) return 3.0 * kLearningRate;
  return absl::EndsWith(name, "/kernel") ? 0.03 * kLearningRate : 0.0;
}

double Ulp(double magnitude) {
  const float f = static_cast<float>(std::max(std::abs(magnitude), 1e-37));
  return std::nextafterf(f, INFINITY) - f;
}

// The two bf16 values around `value`, away from zero second.
std::pair<float, float> Bf16Around(double value) {
  const float f = static_cast<float>(value);
  const uint16_t down = static_cast<uint16_t>(std::bit_cast<uint32_t>(f) >> 16);
  return {FromBf16(down), FromBf16(static_cast<uint16_t>(down + 1))};
}

}  // namespace

OptimizerRun::OptimizerRun(const std::string& run, const std::string& rule, int zero_steps,
                           const std::string& instruction_set)
    : file_("optimizer"),
      run_(run),
      rule_(rule),
      instruction_set_(instruction_set),
      zero_steps_(zero_steps),
      schedule_(file_.Values(run + ".schedule")),
      scale_(file_.Floats(run + ".scale")) {
  // Streams are numbered in the order of the script, which is kept in the file.
  for (int64_t i = 0; file_.Has(absl::StrCat(run, ".tensor_", i)); ++i) {
    const std::vector<std::byte> bytes = file_.Bytes(absl::StrCat(run, ".tensor_", i));
    AddTensor(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), i);
  }
  VITSCALE_CHECK(!tensors_.empty()) << "no tensors of run " << run;
  Prepare();
}

TensorView OptimizerRun::Place(const std::string& name, Arena arena, DType dtype, Shape shape) {
  int64_t& end = bytes_[static_cast<int>(arena)];
  TensorView view{name, arena, end, dtype, std::move(shape)};
  end = AlignUp(end + view.bytes());
  return view;
}

void OptimizerRun::AddTensor(const std::string& name, int index) {
  const std::string prefix = absl::StrCat(run_, ".", name, ".");
  RunTensor t;
  t.name = name;
  for (const int64_t dim : file_.Integers(prefix + "shape")) t.shape.push_back(dim);
  t.places = file_.Integers(prefix + "place");
  t.parameter = file_.Values(prefix + "parameter");
  t.momentum = file_.Values(prefix + "momentum");
  t.draws = UniformDraws(ElementCount(t.shape), kSeed, index);
  t.op.parameter = Place(name + ".p", Arena::kParameters, DType::kF32, t.shape);
  t.op.gradient = Place(name + ".g", Arena::kGradients, DType::kF32, t.shape);
  t.op.momentum = Place(name + ".m", Arena::kMomentum, DType::kBf16, t.shape);
  const std::vector<int64_t> axes = file_.Integers(prefix + "axes");
  if (axes[0] >= 0) {
    t.op.factoring = {true, static_cast<int>(axes[0]), static_cast<int>(axes[1])};
  }
  if (file_.Has(prefix + "moment")) {
    t.moment = file_.Values(prefix + "moment");
    t.moment_places = file_.Integers(prefix + "moment_place");
    const int64_t n = ElementCount(t.shape);
    const int64_t count = axes[0] < 0 ? n : n / t.shape[axes[0]] + n / t.shape[axes[1]];
    t.op.second_moment = Place(name + ".v", Arena::kSecondMoment, DType::kF32, {count});
  }
  t.op.learning_rate = kLearningRate;
  t.op.weight_decay = DecayOf(name);
  tensors_.push_back(std::move(t));
}

void OptimizerRun::Prepare() {
  OptimizerArgs args;
  int64_t factored = 0;
  for (const RunTensor& t : tensors_) {
    args.tensors.push_back(t.op);
    if (t.op.factoring.factored) factored += t.op.second_moment.elements();
  }
  args.gradient_square_sum = Place("square_sum", Arena::kStatistics, DType::kF64, {1});
  if (factored > 0) {
    args.factored_sums = Place("sums", Arena::kActivations, DType::kF32, {factored});
  }
  Program program;
  program.Add(GradStatsArgs{args.tensors, args.gradient_square_sum, args.factored_sums});
  if (rule_ == "adafactor") program.Add(AdafactorApplyArgs{args});
  if (rule_ == "adamw") program.Add(AdamWApplyArgs{args});
  if (rule_ == "sgd") program.Add(SgdApplyArgs{args});

  BackendOptions options;
  options.threads = 2;
  options.instruction_set = instruction_set_;
  auto backend = CreateBackend(options);
  VITSCALE_CHECK(backend.ok()) << backend.status().ToString();
  backend_ = std::move(backend).value();
  const absl::Status allocated = backend_->Allocate(bytes_);
  VITSCALE_CHECK(allocated.ok()) << allocated.ToString();
  auto prepared = backend_->Prepare(std::move(program));
  VITSCALE_CHECK(prepared.ok()) << prepared.status().ToString();
  program_ = std::move(prepared).value();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const int64_t n = ElementCount(tensors_[i].shape);
    std::vector<float> first = UniformDraws(n, kSeed, 1000 + i);
    for (float& value : first) value *= 0.25f;
    std::copy(first.begin(), first.end(), Memory<float>(tensors_[i].op.parameter));
  }
}

void OptimizerRun::WriteGradient(const RunTensor& t, int64_t k) {
  float* g = Memory<float>(t.op.gradient);
  const int64_t n = static_cast<int64_t>(t.draws.size());
  const bool zero = k < zero_steps_ && !IsHead(t.name);
  int64_t from = k * kRotation % n;
  for (int64_t i = 0; i < n; ++i) {
    g[i] = zero ? 0.0f : t.draws[from] * static_cast<float>(1 + i % 7) * scale_[k];
    if (++from == n) from = 0;
  }
}

// Sampled parameters and momenta as the truth left them; every second parameter 0.
void OptimizerRun::Restart(const RunTensor& t, int64_t k) {
  float* p = Memory<float>(t.op.parameter);
  uint16_t* m = Memory<uint16_t>(t.op.momentum);
  std::vector<float> before;
  for (size_t s = 0; s < t.places.size(); ++s) {
    const size_t last = (k - 1) * t.places.size() + s;
    if (k > 0) {
      p[t.places[s]] = static_cast<float>(t.parameter[last]);
      m[t.places[s]] = ToBf16(static_cast<float>(t.momentum[last]));
    }
    if (s % 2 == 1) p[t.places[s]] = 0;
    before.push_back(p[t.places[s]]);
  }
  before_.push_back(std::move(before));
}

// Unit: one f32 ulp of the largest term that an element is a sum of (optimizer.py, Run.unit).
void OptimizerRun::Judge(const RunTensor& t, int64_t k, ErrorTable& table) {
  const float* p = Memory<const float>(t.op.parameter);
  const uint16_t* m = Memory<const uint16_t>(t.op.momentum);
  const std::vector<float>& before = before_[&t - tensors_.data()];
  const size_t samples = t.places.size();
  for (size_t s = 0; s < samples; ++s) {
    const std::string where = absl::StrCat(t.name, "[", t.places[s], "] step ", k);
    const double want = t.parameter[k * samples + s], exact = t.momentum[k * samples + s];
    const double kept =
        k == 0 ? 0
               : kMomentumDecay *
                     FromBf16(ToBf16(static_cast<float>(t.momentum[(k - 1) * samples + s])));
    const double largest = std::max({std::abs(kept), std::abs(exact - kept), std::abs(exact)});
    const double terms = exact == 0 ? 0 : std::abs(want - before[s]) * largest / std::abs(exact);
    const double unit = Ulp(std::max<double>(std::abs(before[s]), terms));
    table.Expect(absl::StrCat(run_, s % 2 == 1 ? " update" : " parameter"),
                 std::abs(p[t.places[s]] - want) / unit, 4, "ulp", where);
    // bf16: the nearer of the two neighbours; the other one only if the truth is a tie within 4
    // ulp.
    const float stored = FromBf16(m[t.places[s]]);
    const auto [low, high] = Bf16Around(exact);
    EXPECT_TRUE(stored == low || stored == high) << where << ": " << stored << ", want " << exact;
    const double middle = 0.5 * (static_cast<double>(low) + high);
    const bool nearer = std::abs(stored - exact) <= std::abs((stored == low ? high : low) - exact);
    table.Expect(absl::StrCat(run_, " momentum off a tie"),
                 nearer ? 0 : std::abs(exact - middle) / Ulp(largest), 4, "ulp", where);
  }
}

void OptimizerRun::JudgeMoment(const RunTensor& t, int64_t k, ErrorTable& table) {
  if (!t.op.second_moment.present()) return;
  const float* v = Memory<const float>(t.op.second_moment);
  const size_t samples = t.moment_places.size();
  for (size_t s = 0; s < samples; ++s) {
    table.Expect(absl::StrCat(run_, " second moment"),
                 UlpError(v[t.moment_places[s]], t.moment[k * samples + s]), 4, "ulp",
                 absl::StrCat(t.name, "[", t.moment_places[s], "] step ", k));
  }
}

void OptimizerRun::Step(int64_t k, ErrorTable& table) {
  before_.clear();
  for (const RunTensor& t : tensors_) {
    WriteGradient(t, k);
    Restart(t, k);
  }
  StepScalars scalars;
  scalars.step = k;
  scalars.schedule = schedule_[k];
  scalars.beta2 = AdafactorBeta2(k, 0.999);
  scalars.gradient_scale = kGradientScale;
  const absl::Status ran = backend_->Run(*program_, scalars, nullptr);
  ASSERT_TRUE(ran.ok()) << ran.ToString();
  for (const RunTensor& t : tensors_) {
    Judge(t, k, table);
    JudgeMoment(t, k, table);
  }
}

}  // namespace vitscale::golden
