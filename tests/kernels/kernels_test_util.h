// What every kernel test needs: tensors with sentinels around them, ops run alone, comparisons that
// NaN fails.
//
//   OpBench bench({Isa::kAvx512, DType::kBf16}, /*threads=*/2);
//   TensorView x = bench.Input("x", DType::kF32, {rows, width}, values);
//   TensorView y = bench.Output("y", DType::kBf16, {rows, width});
//   ASSERT_OK(bench.Run(LayerNormArgs{.x = x, …, .y = y}));
//   ExpectNear(bench.Values(y), reference, /*relative=*/0x1p-8, /*absolute=*/1e-6);
//
// Run checks that no byte outside the tensors changed.

#ifndef TESTS_KERNELS_KERNELS_TEST_UTIL_H_
#define TESTS_KERNELS_KERNELS_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

namespace vitscale {

// One way an op is compiled: instruction set and compute dtype.
struct Variant {
  cpu::Isa isa = cpu::Isa::kAvx2;
  DType dtype = DType::kF32;
};
std::vector<Variant> AllVariants();  // bf16 and f32 on every instruction set of this machine
std::vector<cpu::Isa> AllInstructionSets();                            // those of this machine
std::string VariantName(const testing::TestParamInfo<Variant>& info);  // "avx512_bf16"

using Doubles = std::vector<double>;

using BackendMaker = std::function<absl::StatusOr<std::unique_ptr<Backend>>()>;
BackendMaker CpuBackendMaker(Variant variant, int threads = 1);

// Tensors of one test. Values are given and returned as double and rounded to the tensor's dtype in
// between.
class OpBench {
 public:
  explicit OpBench(Variant variant, int threads = 1);
  // On whatever backend `maker` makes, a new one for every run.
  explicit OpBench(BackendMaker maker) : maker_(std::move(maker)) {}

  // Called before a run when an arena has been written: which of its bytes belong to a tensor.
  using ArenaWritten = std::function<void(const std::vector<bool>& owned)>;
  void set_arena_written(ArenaWritten written) { arena_written_ = std::move(written); }

  // An input holds `values`; an output holds garbage (0xA5 bytes) until an op writes it.
  TensorView Input(absl::string_view name, DType dtype, Shape shape, const Doubles& values,
                   Arena arena = Arena::kActivations);
  TensorView Output(absl::string_view name, DType dtype, Shape shape,
                    Arena arena = Arena::kActivations);

  // Runs one op, or a program, with everything written afresh: a second call starts from the same
  // memory.
  template <typename Args>
  absl::Status Run(Args args, StepScalars scalars = {}) {
    Program program;
    program.Add(std::move(args));
    return RunProgram(std::move(program), scalars);
  }
  absl::Status RunProgram(Program program, StepScalars scalars = {}, MarkerSink* sink = nullptr);

  // What a tensor holds now; as the dtype stores it, so that two runs can be compared bit for bit.
  Doubles Values(const TensorView& view) const;
  std::vector<std::byte> Bytes(const TensorView& view) const;

  const Variant& variant() const { return variant_; }
  // Of the last run: PreparedProgram::variants().
  const std::vector<std::string>& chosen() const { return chosen_; }

 private:
  TensorView Place(absl::string_view name, DType dtype, Shape shape, Arena arena);

  Variant variant_;
  BackendMaker maker_;
  ArenaWritten arena_written_;
  std::vector<std::string> chosen_;
  std::array<std::vector<std::byte>, kArenaCount>
      memory_;                                        // what the test asked for, sentinels between
  std::array<std::vector<bool>, kArenaCount> owned_;  // bytes that belong to a tensor
  std::array<std::vector<std::byte>, kArenaCount> after_;  // what the last run left
};

// Every |actual - expected| <= absolute + relative * |expected|; NaN on either side fails. Names
// the worst element.
void ExpectNear(const Doubles& actual, const Doubles& expected, double relative, double absolute,
                absl::string_view what = "");

// Every |actual[i] - expected[i]| <= bound[i].
void ExpectWithin(const Doubles& actual, const Doubles& expected, const Doubles& bound,
                  absl::string_view what = "");

// `run(threads)` gives bytes; they must be equal for 1, 2 and 3 threads.
void ExpectSameBitsForAnyThreads(const std::function<std::vector<std::byte>(int threads)>& run);

// Values from a fixed sequence: uniform in [low, high), or normal with mean 0. `seed` separates
// tensors.
Doubles UniformValues(int64_t count, double low, double high, uint64_t seed);
Doubles NormalValues(int64_t count, double deviation, uint64_t seed);
// As the dtype would hold them; references start from what the op really sees.
Doubles Rounded(Doubles values, DType dtype);

// d f / d x by central differences in f64, error O(h^2).
Doubles CentralDifferences(const std::function<double(const Doubles&)>& f, const Doubles& x,
                           double h = 1e-5);

// 2^-8: half a unit in the last place of bf16, relative; f32: 2^-24.
double HalfUlp(DType dtype);

}  // namespace vitscale

#endif  // TESTS_KERNELS_KERNELS_TEST_UTIL_H_
