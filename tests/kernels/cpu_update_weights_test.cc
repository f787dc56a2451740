// Compute copies that an optimizer makes of the rows it has just written, when PrepareWeights is
// the next op: the same bits as PrepareWeights makes by itself.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/optimizer_bench.h"

namespace vitscale {
namespace {

// Tensors that are, in this order, the parts of weights [in, outs].
struct Weight {
  std::string what;
  std::vector<Shape> parts;
  int64_t in = 0;
  std::vector<int64_t> outs;
};
std::vector<Weight> Weights() {
  return {
      {"query, key, value", {{64, 2, 32}, {64, 2, 32}, {64, 2, 32}}, 64, {64, 64, 64}},
      {"out, two heads of 40", {{2, 40, 64}}, 80, {64}},
      {"more rows than a tile, an odd rest", {{2050, 33}}, 2050, {33}},
      {"wider than a tile", {{34, 4200}}, 34, {4200}},
      {"embedding, three rows at a time", {{32, 32, 3, 40}}, 3072, {40}},
      {"embedding that is not factored", {{14, 14, 3, 40}}, 588, {40}},
      {"few classes", {{48, 10}}, 48, {10}},
      {"heads of odd size, pairs of rows in two tiles", {{3, 35, 64}}, 105, {64}},
      {"parts that begin in the middle of a unit", {{64, 35}, {64, 33}}, 64, {35, 33}},
  };
}

// Statistics, update, weights, and every weight used in both directions. `apart`: an op between
// update and PrepareWeights, so that neither knows of the other.
struct UpdateAndUse {
  OpBench bench;
  std::vector<TensorView> results;

  UpdateAndUse(Variant variant, Rule rule, int64_t rows, bool apart, int threads,
               bool prepare = true)
      : bench(variant, threads) {
    const StepValues step = ScalarsOf(rule, 7);
    OptimizerArgs args;
    PrepareWeightsArgs weights;
    Program uses;
    int64_t factored = 0;
    for (const Weight& weight : Weights()) {
      WeightParts parts;
      for (const Shape& shape : weight.parts) {
        const uint64_t seed = 100 + args.tensors.size();
        const TensorState state = MakeTensor(shape, rule, seed, /*learning_rate=*/0.3);
        const Doubles gradient = NormalValues(ElementCount(shape), 0.02, seed + 1000);
        args.tensors.push_back(PlaceTensor(state, gradient, absl::StrCat("t", seed), bench));
        if (state.factoring.factored) factored += state.second_moment.size();
        TensorView part = args.tensors.back().parameter;
        part.shape = {weight.in, weight.outs[parts.size()]};
        parts.push_back(part);
      }
      weights.weights.push_back(parts);
      AddUses(parts, rows, uses);
    }
    args.gradient_square_sum = bench.Output("square_sum", DType::kF64, {1}, Arena::kStatistics);
    if (factored > 0) args.factored_sums = bench.Output("sums", DType::kF32, {factored});
    args.beta1 = step.beta1;
    Program program;
    program.Add(GradStatsArgs{args.tensors, args.gradient_square_sum, args.factored_sums});
    AddUpdate(rule, args, step, program);
    if (apart) program.Add(FillArgs{bench.Output("between", DType::kF32, {1}), 0.0});
    if (prepare) program.Add(weights);
    for (const Op& op : uses.ops()) program.mutable_ops().push_back(op);
    EXPECT_THAT(bench.RunProgram(std::move(program), EngineScalars(step)), IsOk());
  }

  void AddUses(const WeightParts& parts, int64_t rows, Program& uses) {
    const DType dtype = bench.variant().dtype;
    const int64_t in = parts[0].shape[0];
    int64_t out = 0;
    for (const TensorView& part : parts) out += part.shape[1];
    const std::string name = absl::StrCat("w", results.size());
    LinearArgs forward;
    forward.x = bench.Input(name + ".x", dtype, {rows, in}, NormalValues(rows * in, 1.0, 1));
    forward.weight = parts;
    forward.y = bench.Output(name + ".y", dtype, {rows, out});
    LinearGradInputArgs backward;
    backward.grad_y =
        bench.Input(name + ".gy", dtype, {rows, out}, NormalValues(rows * out, 1.0, 2));
    backward.weight = parts;
    backward.grad_x = bench.Output(name + ".gx", dtype, {rows, in});
    uses.Add(forward);
    uses.Add(backward);
    results.push_back(forward.y);
    results.push_back(backward.grad_x);
  }
  std::vector<std::vector<std::byte>> Bytes() const {
    std::vector<std::vector<std::byte>> bytes;
    for (const TensorView& view : results) bytes.push_back(bench.Bytes(view));
    return bytes;
  }
};

class UpdateWeightsTest : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(EveryVariant, UpdateWeightsTest, testing::ValuesIn(AllVariants()),
                         VariantName);

TEST_P(UpdateWeightsTest, CopiesPackedAsTheyAreWrittenAreThoseThatArePackedAfterwards) {
  for (const Rule rule : {Rule::kAdafactor, Rule::kAdamW, Rule::kSgd}) {
    for (const int64_t rows : {3, 400}) {  // tiles and oneDNN
      if (rows > 3 && rule != Rule::kAdafactor) continue;
      SCOPED_TRACE(absl::StrCat(RuleName(rule), ", ", rows, " rows"));
      const UpdateAndUse together(GetParam(), rule, rows, /*apart=*/false, 2);
      const UpdateAndUse apart(GetParam(), rule, rows, /*apart=*/true, 1);
      const UpdateAndUse never(GetParam(), rule, rows, true, 1, /*prepare=*/false);
      const auto got = together.Bytes(), want = apart.Bytes(), old = never.Bytes();
      for (size_t i = 0; i < want.size(); ++i) {
        const std::string what = Weights()[i / 2].what + (i % 2 == 0 ? ", x W" : ", y W^T");
        EXPECT_EQ(got[i], want[i]) << what;
        EXPECT_NE(got[i], old[i]) << what << ": the update changed nothing";
      }
    }
  }
}

TEST_P(UpdateWeightsTest, BitsDoNotDependOnThreads) {
  ExpectSameBitsForAnyThreads([&](int threads) {
    std::vector<std::byte> all;
    for (const auto& bytes : UpdateAndUse(GetParam(), Rule::kAdafactor, 3, false, threads).Bytes())
      all.insert(all.end(), bytes.begin(), bytes.end());
    return all;
  });
}

}  // namespace
}  // namespace vitscale
