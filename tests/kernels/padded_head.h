// A classifier with rows of logits that are padded, or not: Linear, its two gradients. For tests of
// every backend.

#ifndef TESTS_KERNELS_PADDED_HEAD_H_
#define TESTS_KERNELS_PADDED_HEAD_H_

#include <cmath>

#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/loss_problem.h"

namespace vitscale {

struct PaddedHead {
  int64_t rows, in, classes;
  bool padded;
  DType dtype;  // of x and of the gradient

  int64_t columns() const { return padded ? PadColumns(classes) : classes; }
  Doubles Rows(const Doubles& values) const {
    return padded ? PaddedRows(values, classes, 0.0) : values;
  }
  Doubles Values(int64_t count, double deviation, uint64_t seed) const {
    return Rounded(NormalValues(count, deviation, seed), dtype);
  }

  template <typename Bench>
  LinearArgs Forward(Bench& bench) const {
    LinearArgs args;
    args.x = bench.Input("x", dtype, {rows, in}, Values(rows * in, 1, 1));
    args.weight = Weight(bench);
    args.bias = {bench.Input("b", DType::kF32, {classes},
                             Rounded(NormalValues(classes, 1, 3), DType::kF32),
                             Arena::kParameters)};
    args.y = bench.Output("logits", DType::kF32, {rows, columns()});
    return args;
  }
  template <typename Bench>
  LinearGradInputArgs GradInput(Bench& bench) const {
    LinearGradInputArgs args;
    args.grad_y = GradLogits(bench);
    args.weight = Weight(bench);
    args.grad_x = bench.Output("grad_x", DType::kF32, {rows, in});
    return args;
  }
  template <typename Bench>
  LinearGradWeightArgs GradWeight(Bench& bench) const {
    LinearGradWeightArgs args;
    args.x = bench.Input("x", dtype, {rows, in}, Values(rows * in, 1, 1));
    args.grad_y = GradLogits(bench);
    args.grad_weight = {bench.Output("grad_w", DType::kF32, {in, classes}, Arena::kGradients)};
    args.grad_bias = {bench.Output("grad_b", DType::kF32, {classes}, Arena::kGradients)};
    return args;
  }

 private:
  template <typename Bench>
  WeightParts Weight(Bench& bench) const {
    const Doubles values = Rounded(NormalValues(in * classes, 1 / std::sqrt(in), 2), DType::kF32);
    return {bench.Input("w", DType::kF32, {in, classes}, values, Arena::kParameters)};
  }
  template <typename Bench>
  TensorView GradLogits(Bench& bench) const {
    return bench.Input("grad_logits", dtype, {rows, columns()}, Rows(Values(rows * classes, 1, 4)));
  }
};

// The first `columns` of every row of `padded` values.
inline Doubles WithoutPadding(const Doubles& padded, int64_t columns) {
  Doubles values;
  for (auto row = padded.begin(); row != padded.end(); row += PadColumns(columns)) {
    values.insert(values.end(), row, row + columns);
  }
  return values;
}

inline constexpr int64_t kPaddedClasses[] = {1, 2, 7, 10, 13, 100, 1001};

}  // namespace vitscale

#endif  // TESTS_KERNELS_PADDED_HEAD_H_
