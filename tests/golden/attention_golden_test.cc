// Self-attention and the MAP head's attention, forward and backward, against flax for every head
// dim of the model family, on every instruction set. Values and error measures:
// attention_golden.py.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/golden/counter_draws.h"
#include "tests/golden/golden.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"

namespace vitscale::golden {
namespace {

constexpr uint64_t kSeed = 3;
constexpr int64_t kHeads = 2, kTokens = 13;

// Multiples of 1/64 in [-2, 2), as attention_golden.py draws them: [rows, columns].
struct Matrix {
  int64_t rows, columns;
  Doubles values;
};
Matrix Draw(int64_t rows, int64_t columns, uint32_t stream) {
  Matrix m{rows, columns, {}};
  for (float v : UniformDraws(rows * columns, kSeed, stream)) {
    m.values.push_back(std::floor(double{v} * 128) / 64);
  }
  return m;
}

// Matrices of equal height beside each other, and one of them again.
Doubles Beside(std::vector<const Matrix*> parts) {
  Doubles all;
  for (int64_t row = 0; row < parts[0]->rows; ++row) {
    for (const Matrix* part : parts) {
      const auto begin = part->values.begin() + row * part->columns;
      all.insert(all.end(), begin, begin + part->columns);
    }
  }
  return all;
}
Doubles Part(const Doubles& all, int64_t parts, int64_t index, int64_t columns) {
  Doubles part;
  for (size_t row = 0; row < all.size() / (parts * columns); ++row) {
    const auto begin = all.begin() + (row * parts + index) * columns;
    part.insert(part.end(), begin, begin + columns);
  }
  return part;
}

class AttentionGoldenTest : public testing::TestWithParam<std::tuple<Variant, int>> {
 protected:
  static void SetUpTestSuite() {
    table_ = new ErrorTable;
    file_ = new GoldenFile("attention");
  }
  static void TearDownTestSuite() {
    delete table_;
    delete file_;
  }
  Variant variant() const { return std::get<0>(GetParam()); }
  DType dtype() const { return variant().dtype; }
  int64_t dim() const { return std::get<1>(GetParam()); }
  int64_t width() const { return kHeads * dim(); }
  Matrix Input(int64_t rows, bool pool, int index) const {
    return Draw(rows, width(), static_cast<uint32_t>(8 * dim() + (pool ? 4 : 0) + index));
  }

  // f32: 4 times what flax is off by in f32, at least 2e-7. bf16: twice what flax is off by with
  // the same rounding points, at most 2^-5; 2e-7 again where nothing is rounded (the pool's query).
  void Expect(absl::string_view kind, absl::string_view tensor, const Doubles& actual) {
    const std::string at = absl::StrCat(kind, "/", dim(), "/");
    const Doubles flax = file_->Values(absl::StrCat(at, "error/", tensor));
    const double bound = dtype() == DType::kF32 ? std::max(2e-7, 4 * flax[0])
                                                : std::clamp(2 * flax[1], 2e-7, 0x1p-5);
    table_->Expect(absl::StrCat(DTypeName(dtype()), " ", kind, " attention ", tensor),
                   RelativeL2(actual, file_->Values(absl::StrCat(at, tensor))), bound,
                   "relative L2", absl::StrCat("head dim ", dim()));
  }

  static ErrorTable* table_;
  static GoldenFile* file_;
};
ErrorTable* AttentionGoldenTest::table_ = nullptr;
GoldenFile* AttentionGoldenTest::file_ = nullptr;

TEST_P(AttentionGoldenTest, SelfAttentionAndItsGradientsAreThoseOfFlax) {
  const Matrix query = Input(kTokens, false, 0), key = Input(kTokens, false, 1),
               value = Input(kTokens, false, 2), grad_out = Input(kTokens, false, 3);
  OpBench bench(variant());
  SelfAttentionArgs forward;
  forward.batch = 1, forward.tokens = kTokens, forward.heads = kHeads;
  forward.qkv = bench.Input("qkv", dtype(), {kTokens, 3 * width()}, Beside({&query, &key, &value}));
  forward.out = bench.Output("out", dtype(), {kTokens, width()});
  forward.log_sum_exp = bench.Output("log_sum_exp", DType::kF32, {1, kHeads, kTokens});
  SelfAttentionGradArgs backward;
  backward.batch = 1, backward.tokens = kTokens, backward.heads = kHeads;
  backward.grad_out = bench.Input("grad_out", dtype(), {kTokens, width()}, grad_out.values);
  backward.qkv = forward.qkv, backward.out = forward.out;
  backward.log_sum_exp = forward.log_sum_exp;
  backward.grad_qkv = bench.Output("grad_qkv", dtype(), {kTokens, 3 * width()});
  Program program;
  program.Add(forward);
  program.Add(backward);
  ASSERT_THAT(bench.RunProgram(std::move(program)), IsOk());
  Expect("self", "out", bench.Values(forward.out));
  const Doubles gradients = bench.Values(backward.grad_qkv);
  Expect("self", "grad_query", Part(gradients, 3, 0, width()));
  Expect("self", "grad_key", Part(gradients, 3, 1, width()));
  Expect("self", "grad_value", Part(gradients, 3, 2, width()));
}

TEST_P(AttentionGoldenTest, PoolAttentionAndItsGradientsAreThoseOfFlax) {
  constexpr int64_t kBatch = 2, kRows = kBatch * kTokens;
  const Matrix query = Input(1, true, 0), key = Input(kRows, true, 1),
               value = Input(kRows, true, 2), grad_out = Input(kBatch, true, 3);
  OpBench bench(variant());
  PoolAttentionArgs forward;
  forward.batch = kBatch, forward.tokens = kTokens, forward.heads = kHeads;
  forward.query = bench.Input("query", DType::kF32, {1, width()}, query.values);
  forward.key_value =
      bench.Input("key_value", dtype(), {kRows, 2 * width()}, Beside({&key, &value}));
  forward.out = bench.Output("out", dtype(), {kBatch, width()});
  forward.log_sum_exp = bench.Output("log_sum_exp", DType::kF32, {kBatch, kHeads});
  PoolAttentionGradArgs backward;
  backward.batch = kBatch, backward.tokens = kTokens, backward.heads = kHeads;
  backward.grad_out = bench.Input("grad_out", dtype(), {kBatch, width()}, grad_out.values);
  backward.query = forward.query, backward.key_value = forward.key_value;
  backward.out = forward.out, backward.log_sum_exp = forward.log_sum_exp;
  backward.grad_query = bench.Output("grad_query", DType::kF32, {1, width()});
  backward.grad_key_value = bench.Output("grad_key_value", dtype(), {kRows, 2 * width()});
  Program program;
  program.Add(forward);
  program.Add(backward);
  ASSERT_THAT(bench.RunProgram(std::move(program)), IsOk());
  Expect("pool", "out", bench.Values(forward.out));
  Expect("pool", "grad_query", bench.Values(backward.grad_query));
  const Doubles gradients = bench.Values(backward.grad_key_value);
  Expect("pool", "grad_key", Part(gradients, 2, 0, width()));
  Expect("pool", "grad_value", Part(gradients, 2, 1, width()));
}

INSTANTIATE_TEST_SUITE_P(EveryVariantAndHeadDim, AttentionGoldenTest,
                         testing::Combine(testing::ValuesIn(AllVariants()),
                                          testing::Values(32, 64, 72, 80, 88, 104, 112)),
                         [](const auto& info) {
                           const testing::TestParamInfo<Variant> variant(std::get<0>(info.param),
                                                                         info.index);
                           return absl::StrCat(VariantName(variant), "_dim",
                                               std::get<1>(info.param));
                         });

}  // namespace
}  // namespace vitscale::golden
