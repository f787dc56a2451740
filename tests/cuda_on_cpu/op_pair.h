// An op on two backends: the CPU's, which is the reference, and CUDA's, with the same operands and
// with sentinels around them.
//
//   OpPair pair(DType::kBf16);                    // compute dtype
//   TensorView x = pair.Input("x", DType::kF32, {rows, width}, values);
//   TensorView y = pair.Output("y", DType::kBf16, {rows, width});
//   ASSERT_THAT(pair.Run(LayerNormArgs{.x = x, …, .y = y}), IsOk());
//   EXPECT_EQ(pair.variant(), "vector");          // what CUDA chose
//   pair.ExpectNear(y, /*relative=*/0x1p-7, /*absolute=*/1e-5);
//
// Run also runs CUDA twice, the second time with another schedule where there is one, and wants the
// same bits. The CUDA backend is the one that this program is linked with: kernels on a device, or
// kernels on the layer of this folder.

#ifndef TESTS_CUDA_ON_CPU_OP_PAIR_H_
#define TESTS_CUDA_ON_CPU_OP_PAIR_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "tests/kernels/kernels_test_util.h"

namespace vitscale {

BackendMaker CudaBackendMaker(DType compute);

class OpPair {
 public:
  // The CPU side takes the best instruction set of this machine.
  explicit OpPair(DType compute);

  TensorView Input(absl::string_view name, DType dtype, Shape shape, const Doubles& values,
                   Arena arena = Arena::kActivations);
  TensorView Output(absl::string_view name, DType dtype, Shape shape,
                    Arena arena = Arena::kActivations);

  // The status of the side that failed, prefixed by "cpu" or "cuda".
  template <typename Args>
  absl::Status Run(Args args, StepScalars scalars = {}) {
    Program program;
    program.Add(std::move(args));
    return RunProgram(program, scalars);
  }
  absl::Status RunProgram(const Program& program, StepScalars scalars = {});

  // Of the first op that has one; of all: "op 3 Linear: bias, fused".
  std::string variant() const;
  const std::vector<std::string>& variants() const { return cuda_.chosen(); }

  Doubles Cpu(const TensorView& view) const { return cpu_.Values(view); }
  Doubles Cuda(const TensorView& view) const { return cuda_.Values(view); }

  // CUDA against the CPU: |cuda - cpu| <= absolute + relative |cpu|, or the bound of each element.
  void ExpectNear(const TensorView& view, double relative, double absolute) const;
  void ExpectWithin(const TensorView& view, const Doubles& bound) const;
  void ExpectSameBits(const TensorView& view) const;

 private:
  absl::Status RunCudaAgain(const Program& program, StepScalars scalars);

  OpBench cpu_, cuda_;
  std::vector<TensorView> views_;
};

}  // namespace vitscale

#endif  // TESTS_CUDA_ON_CPU_OP_PAIR_H_
