#include "tests/kernels/kernels_test_util.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/backend_factory.h"
#include "kernels/base/bf16.h"
#include "kernels/base/random.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr std::byte kSentinel{0x5c};  // between tensors
constexpr std::byte kGarbage{0xa5};   // in outputs before they are written
constexpr int64_t kGuardBytes = 2 * kTensorAlignment;

template <typename T>
T Get(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}
template <typename T>
void Put(std::byte* p, double value) {
  const T stored = static_cast<T>(value);
  std::memcpy(p, &stored, sizeof(T));
}

double Decode(const std::byte* p, DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return Get<uint8_t>(p);
    case DType::kBf16:
      return FromBf16(Get<uint16_t>(p));
    case DType::kF32:
      return Get<float>(p);
    case DType::kF64:
      return Get<double>(p);
    case DType::kI32:
      return Get<int32_t>(p);
    case DType::kI64:
      return static_cast<double>(Get<int64_t>(p));
  }
  return 0;
}

void Encode(std::byte* p, DType dtype, double value) {
  switch (dtype) {
    case DType::kU8:
      return Put<uint8_t>(p, value);
    case DType::kBf16: {
      const uint16_t bits = ToBf16(static_cast<float>(value));
      std::memcpy(p, &bits, sizeof(bits));
      return;
    }
    case DType::kF32:
      return Put<float>(p, value);
    case DType::kF64:
      return Put<double>(p, value);
    case DType::kI32:
      return Put<int32_t>(p, value);
    case DType::kI64:
      return Put<int64_t>(p, value);
  }
}

TensorView WholeArena(int arena, int64_t bytes) {
  const auto a = static_cast<Arena>(arena);
  return {ArenaName(a), a, 0, DType::kU8, {bytes}};
}

// Sentinels that a run changed.
int64_t ChangedBytes(const std::vector<std::byte>& before, absl::Span<const std::byte> after,
                     const std::vector<bool>& owned) {
  int64_t changed = 0;
  for (size_t i = 0; i < before.size(); ++i) changed += !owned[i] && before[i] != after[i];
  return changed;
}

}  // namespace

std::vector<cpu::Isa> AllInstructionSets() {
  std::vector<cpu::Isa> sets;
  for (int i = 0; i < cpu::kIsaCount; ++i) {
    if (cpu::IsaSupported(static_cast<cpu::Isa>(i))) sets.push_back(static_cast<cpu::Isa>(i));
  }
  return sets;
}

std::vector<Variant> AllVariants() {
  std::vector<Variant> variants;
  for (cpu::Isa isa : AllInstructionSets()) {
    for (DType dtype : {DType::kF32, DType::kBf16}) variants.push_back({isa, dtype});
  }
  return variants;
}

std::string VariantName(const testing::TestParamInfo<Variant>& info) {
  return absl::StrCat(cpu::IsaName(info.param.isa), "_with_", DTypeName(info.param.dtype));
}

BackendMaker CpuBackendMaker(Variant variant, int threads) {
  BackendOptions options;
  options.threads = threads;
  options.bf16 = variant.dtype == DType::kBf16;
  options.instruction_set = cpu::IsaName(variant.isa);
  return [options] { return CreateBackend(options); };
}

OpBench::OpBench(Variant variant, int threads)
    : variant_(variant), maker_(CpuBackendMaker(variant, threads)) {}

TensorView OpBench::Place(absl::string_view name, DType dtype, Shape shape, Arena arena) {
  TensorView view{std::string(name), arena, 0, dtype, std::move(shape)};
  auto& memory = memory_[static_cast<int>(arena)];
  auto& owned = owned_[static_cast<int>(arena)];
  view.offset = AlignUp(static_cast<int64_t>(memory.size()) + kGuardBytes);
  memory.resize(view.offset + view.bytes() + kGuardBytes, kSentinel);
  owned.resize(memory.size(), false);
  std::fill_n(owned.begin() + view.offset, view.bytes(), true);
  std::fill_n(memory.begin() + view.offset, view.bytes(), kGarbage);
  return view;
}

TensorView OpBench::Input(absl::string_view name, DType dtype, Shape shape, const Doubles& values,
                          Arena arena) {
  const TensorView view = Place(name, dtype, std::move(shape), arena);
  VITSCALE_CHECK(static_cast<int64_t>(values.size()) == view.elements())
      << name << " has " << values.size() << " values, want " << view.elements();
  std::byte* p = memory_[static_cast<int>(arena)].data() + view.offset;
  for (size_t i = 0; i < values.size(); ++i) Encode(p + i * DTypeBytes(dtype), dtype, values[i]);
  return view;
}

TensorView OpBench::Output(absl::string_view name, DType dtype, Shape shape, Arena arena) {
  return Place(name, dtype, std::move(shape), arena);
}

absl::Status OpBench::RunProgram(Program program, StepScalars scalars, MarkerSink* sink) {
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, maker_());
  ArenaBytes bytes;
  for (int i = 0; i < kArenaCount; ++i) bytes[i] = static_cast<int64_t>(memory_[i].size());
  VITSCALE_RETURN_IF_ERROR(backend->Allocate(bytes));
  for (int i = 0; i < kArenaCount; ++i) {
    if (bytes[i] == 0) continue;
    VITSCALE_RETURN_IF_ERROR(backend->Write(WholeArena(i, bytes[i]), memory_[i]));
    if (arena_written_ != nullptr) arena_written_(owned_[i]);
  }
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<PreparedProgram> prepared,
                            backend->Prepare(std::move(program)));
  chosen_ = prepared->variants();
  VITSCALE_RETURN_IF_ERROR(backend->Run(*prepared, scalars, sink));
  for (int i = 0; i < kArenaCount; ++i) {
    after_[i].resize(bytes[i]);
    if (bytes[i] > 0) {
      VITSCALE_RETURN_IF_ERROR(backend->Read(WholeArena(i, bytes[i]), absl::MakeSpan(after_[i])));
    }
    const int64_t changed = ChangedBytes(memory_[i], after_[i], owned_[i]);
    if (changed > 0) {
      return absl::InternalError(absl::StrCat(changed,
                                              " bytes outside the tensors changed in arena ",
                                              ArenaName(static_cast<Arena>(i))));
    }
  }
  return absl::OkStatus();
}

Doubles OpBench::Values(const TensorView& view) const {
  const auto& memory = after_[static_cast<int>(view.arena)];
  VITSCALE_CHECK(static_cast<int64_t>(memory.size()) >= view.offset + view.bytes())
      << view.name << " is read before a run";
  Doubles values(view.elements());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = Decode(memory.data() + view.offset + i * DTypeBytes(view.dtype), view.dtype);
  }
  return values;
}

std::vector<std::byte> OpBench::Bytes(const TensorView& view) const {
  const auto& memory = after_[static_cast<int>(view.arena)];
  return {memory.begin() + view.offset, memory.begin() + view.offset + view.bytes()};
}

void ExpectNear(const Doubles& actual, const Doubles& expected, double relative, double absolute,
                absl::string_view what) {
  Doubles bound(expected.size());
  for (size_t i = 0; i < bound.size(); ++i) bound[i] = absolute + relative * std::abs(expected[i]);
  ExpectWithin(actual, expected, bound, what);
}

void ExpectWithin(const Doubles& actual, const Doubles& expected, const Doubles& bound,
                  absl::string_view what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  ASSERT_EQ(bound.size(), expected.size()) << what;
  size_t worst = 0;
  double worst_excess = 0;
  int64_t wrong = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]);
    if (error <= bound[i]) continue;  // false for NaN
    ++wrong;
    const double excess =
        std::isnan(error) ? std::numeric_limits<double>::infinity() : error / bound[i];
    if (excess >= worst_excess) worst_excess = excess, worst = i;
  }
  if (wrong == 0) return;
  ADD_FAILURE() << what << ": " << wrong << " of " << actual.size()
                << " elements are off; worst at " << worst << ": is " << actual[worst] << ", want "
                << expected[worst] << " within " << bound[worst];
}

void ExpectSameBitsForAnyThreads(const std::function<std::vector<std::byte>(int threads)>& run) {
  const std::vector<std::byte> one = run(1);
  EXPECT_FALSE(one.empty());
  for (int threads : {2, 3}) EXPECT_TRUE(run(threads) == one) << "with " << threads << " threads";
}

Doubles UniformValues(int64_t count, double low, double high, uint64_t seed) {
  const std::unique_ptr<Random> random = SeededRandom(seed);
  Doubles values(count);
  for (double& value : values) value = low + (high - low) * RandomUniform(*random);
  return values;
}

Doubles NormalValues(int64_t count, double deviation, uint64_t seed) {
  const std::unique_ptr<Random> random = SeededRandom(seed);
  Doubles values(count);
  for (double& value : values) {  // Box and Muller, 1958
    const double radius = std::sqrt(-2 * std::log(1 - RandomUniform(*random)));
    value = deviation * radius * std::cos(2 * M_PI * RandomUniform(*random));
  }
  return values;
}

Doubles Rounded(Doubles values, DType dtype) {
  std::byte stored[8];
  for (double& value : values) {
    Encode(stored, dtype, value);
    value = Decode(stored, dtype);
  }
  return values;
}

Doubles CentralDifferences(const std::function<double(const Doubles&)>& f, const Doubles& x,
                           double h) {
  Doubles gradient(x.size()), moved = x;
  for (size_t i = 0; i < x.size(); ++i) {
    moved[i] = x[i] + h;
    const double up = f(moved);
    moved[i] = x[i] - h;
    gradient[i] = (up - f(moved)) / (2 * h);
    moved[i] = x[i];
  }
  return gradient;
}

double HalfUlp(DType dtype) { return dtype == DType::kBf16 ? 0x1p-8 : 0x1p-24; }

}  // namespace vitscale
