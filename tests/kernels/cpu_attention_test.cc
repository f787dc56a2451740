// SelfAttention and PoolAttention with their backward passes, every variant against the f64
// reference.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/reference/attention_reference.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

struct Problem {
  int64_t batch, tokens, heads, dim;
  int64_t width() const { return heads * dim; }
  int64_t rows() const { return batch * tokens; }
};
std::string Text(const Problem& p) {
  return absl::StrCat("batch ", p.batch, ", tokens ", p.tokens, ", heads ", p.heads, ", dim ",
                      p.dim);
}

// Every head dim of the model family, one that is only a multiple of 8, token counts around the
// lane counts, and enough tokens for several chunks of query rows.
const Problem kProblems[] = {{2, 49, 2, 32}, {1, 1, 1, 16},   {1, 2, 2, 16},   {3, 5, 3, 8},
                             {1, 16, 1, 64}, {1, 17, 2, 72},  {1, 50, 1, 104}, {1, 64, 1, 128},
                             {1, 33, 1, 88}, {1, 196, 1, 64}, {1, 257, 1, 40}};

// Columns [first, first + dim) of rows [row, row + count) of a matrix with `stride` columns.
Doubles Slice(const Doubles& matrix, int64_t stride, int64_t row, int64_t count, int64_t first,
              int64_t dim) {
  Doubles slice;
  for (int64_t r = row; r < row + count; ++r) {
    slice.insert(slice.end(), matrix.begin() + r * stride + first,
                 matrix.begin() + r * stride + first + dim);
  }
  return slice;
}

reference::Head<double> HeadOf(const Problem& p, const Doubles& qkv, int64_t image, int64_t head) {
  const auto part = [&](int64_t index) {
    return Slice(qkv, 3 * p.width(), image * p.tokens, p.tokens, index * p.width() + head * p.dim,
                 p.dim);
  };
  return {p.tokens, p.tokens, p.dim, part(0), part(1), part(2)};
}

// Error of a score: sums of `dim` products in f32.
double ScoreError(const reference::Head<double>& h) {
  double greatest = 0;
  for (int64_t i = 0; i < h.queries; ++i) {
    for (int64_t j = 0; j < h.tokens; ++j) {
      double magnitude = 0;
      for (int64_t c = 0; c < h.dim; ++c)
        magnitude += std::abs(h.q[i * h.dim + c] * h.k[j * h.dim + c]);
      greatest = std::max(greatest, magnitude);
    }
  }
  return (static_cast<double>(h.dim) + 8) * 0x1p-24 * greatest / std::sqrt(h.dim);
}

double MaxAbs(const Doubles& values) {
  double max = 0;
  for (double value : values) max = std::max(max, std::abs(value));
  return max;
}

class AttentionTest : public testing::TestWithParam<Variant> {
 protected:
  DType dtype() const { return GetParam().dtype; }
};
INSTANTIATE_TEST_SUITE_P(EveryVariant, AttentionTest, testing::ValuesIn(AllVariants()),
                         VariantName);

TEST_P(AttentionTest, ForwardMatchesTheReferenceForEveryHeadDim) {
  for (const Problem& p : kProblems) {
    SCOPED_TRACE(Text(p));
    const Doubles qkv = Rounded(NormalValues(p.rows() * 3 * p.width(), 1.5, 1), dtype());
    OpBench bench(GetParam());
    SelfAttentionArgs args;
    args.qkv = bench.Input("qkv", dtype(), {p.rows(), 3 * p.width()}, qkv);
    args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
    args.out = bench.Output("out", dtype(), {p.rows(), p.width()});
    args.log_sum_exp = bench.Output("log_sum_exp", DType::kF32, {p.batch, p.heads, p.tokens});
    ASSERT_THAT(bench.Run(args), IsOk());
    const Doubles out = bench.Values(args.out), log_sum_exp = bench.Values(args.log_sum_exp);
    for (int64_t image = 0; image < p.batch; ++image) {
      for (int64_t head = 0; head < p.heads; ++head) {
        const auto h = HeadOf(p, qkv, image, head);
        const auto want = reference::Attention(h);
        const double score_error = ScoreError(h), u = HalfUlp(dtype());
        // Weights are off by a factor exp(2 * score_error) and rounded once; a weighted mean of v
        // is off by as much of the greatest |v|; plus sums of `tokens` terms in f32 and the last
        // rounding.
        const double weight_error =
            2 * score_error + u + static_cast<double>(p.tokens + 16) * 0x1p-24;
        ExpectNear(Slice(out, p.width(), image * p.tokens, p.tokens, head * p.dim, p.dim), want.out,
                   u, weight_error * MaxAbs(h.v), "out");
        const Doubles lse(log_sum_exp.begin() + (image * p.heads + head) * p.tokens,
                          log_sum_exp.begin() + (image * p.heads + head + 1) * p.tokens);
        ExpectNear(lse, want.log_sum_exp, 0x1p-22, score_error + 4e-6, "log_sum_exp");
      }
    }
  }
}

// Forward without log_sum_exp gives the same bits.
TEST_P(AttentionTest, EvaluationNeedsNoLogSumExp) {
  const Problem p{2, 49, 2, 32};
  const Doubles qkv = NormalValues(p.rows() * 3 * p.width(), 1.5, 1);
  std::vector<std::vector<std::byte>> results;
  for (const bool keep : {true, false}) {
    OpBench bench(GetParam());
    SelfAttentionArgs args;
    args.qkv = bench.Input("qkv", dtype(), {p.rows(), 3 * p.width()}, qkv);
    args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
    args.out = bench.Output("out", dtype(), {p.rows(), p.width()});
    if (keep) args.log_sum_exp = bench.Output("lse", DType::kF32, {p.batch, p.heads, p.tokens});
    ASSERT_THAT(bench.Run(args), IsOk());
    results.push_back(bench.Bytes(args.out));
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_P(AttentionTest, LargeScoresNeitherOverflowNorUnderflow) {
  const Problem p{1, 20, 1, 16};
  Doubles qkv = Rounded(NormalValues(p.rows() * 3 * p.width(), 40, 1), dtype());
  OpBench bench(GetParam());
  SelfAttentionArgs args;
  args.qkv = bench.Input("qkv", dtype(), {p.rows(), 3 * p.width()}, qkv);
  args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
  args.out = bench.Output("out", dtype(), {p.rows(), p.width()});
  ASSERT_THAT(bench.Run(args), IsOk());
  const auto h = HeadOf(p, qkv, 0, 0);
  ExpectNear(bench.Values(args.out), reference::Attention(h).out, HalfUlp(dtype()),
             (2 * ScoreError(h) + HalfUlp(dtype()) + 0x1p-18) * MaxAbs(h.v));
}

struct Backward {
  OpBench bench;
  SelfAttentionGradArgs args;
  Backward(Variant variant, const Problem& p, const Doubles& qkv, const Doubles& grad_out,
           int threads = 1)
      : bench(variant, threads) {
    Doubles out(p.rows() * p.width()), log_sum_exp;
    for (int64_t image = 0; image < p.batch; ++image) {
      for (int64_t head = 0; head < p.heads; ++head) {
        const auto want = reference::Attention(HeadOf(p, qkv, image, head));
        log_sum_exp.insert(log_sum_exp.end(), want.log_sum_exp.begin(), want.log_sum_exp.end());
        for (int64_t t = 0; t < p.tokens; ++t) {
          for (int64_t c = 0; c < p.dim; ++c) {
            out[(image * p.tokens + t) * p.width() + head * p.dim + c] = want.out[t * p.dim + c];
          }
        }
      }
    }
    const DType dtype = variant.dtype;
    args.grad_out = bench.Input("grad_out", dtype, {p.rows(), p.width()}, grad_out);
    args.qkv = bench.Input("qkv", dtype, {p.rows(), 3 * p.width()}, qkv);
    args.out = bench.Input("out", dtype, {p.rows(), p.width()}, out);
    args.log_sum_exp =
        bench.Input("log_sum_exp", DType::kF32, {p.batch, p.heads, p.tokens}, log_sum_exp);
    args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
    args.grad_qkv = bench.Output("grad_qkv", dtype, {p.rows(), 3 * p.width()});
    EXPECT_THAT(bench.Run(args), IsOk());
  }
};

TEST_P(AttentionTest, BackwardMatchesTheReferenceForEveryHeadDim) {
  for (const Problem& p : kProblems) {
    SCOPED_TRACE(Text(p));
    const Doubles qkv = Rounded(NormalValues(p.rows() * 3 * p.width(), 1.2, 1), dtype());
    const Doubles grad_out = Rounded(NormalValues(p.rows() * p.width(), 1, 2), dtype());
    Backward b(GetParam(), p, qkv, grad_out);
    const Doubles got = b.bench.Values(b.args.grad_qkv);
    for (int64_t image = 0; image < p.batch; ++image) {
      for (int64_t head = 0; head < p.heads; ++head) {
        const auto h = HeadOf(p, qkv, image, head);
        const auto want = reference::AttentionGrad(
            h, Slice(grad_out, p.width(), image * p.tokens, p.tokens, head * p.dim, p.dim),
            HalfUlp(dtype()));
        const auto part = [&](int64_t index) {
          return Slice(got, 3 * p.width(), image * p.tokens, p.tokens,
                       index * p.width() + head * p.dim, p.dim);
        };
        ExpectWithin(part(0), want.q, want.q_bound, "grad_q");
        ExpectWithin(part(1), want.k, want.k_bound, "grad_k");
        ExpectWithin(part(2), want.v, want.v_bound, "grad_v");
      }
    }
  }
}

TEST(AttentionReferenceTest, GradientsAreThoseOfCentralDifferences) {
  reference::Head<double> h{
      5, 5, 8, NormalValues(40, 1, 1), NormalValues(40, 1, 2), NormalValues(40, 1, 3)};
  const Doubles grad_out = NormalValues(40, 1, 4);
  const auto loss = [&](const reference::Head<double>& head) {
    const Doubles out = reference::Attention(head).out;
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * grad_out[i];
    return sum;
  };
  const auto want = reference::AttentionGrad(h, grad_out, 0.0);
  // h^2 times third derivatives of order 10, and 2^-53 / h of the loss: below 1e-8.
  const auto check = [&](Doubles reference::Head<double>::*part, const Doubles& gradient) {
    ExpectNear(CentralDifferences(
                   [&](const Doubles& x) {
                     reference::Head<double> moved = h;
                     moved.*part = x;
                     return loss(moved);
                   },
                   h.*part),
               gradient, 0, 1e-8);
  };
  check(&reference::Head<double>::q, want.q);
  check(&reference::Head<double>::k, want.k);
  check(&reference::Head<double>::v, want.v);
}

TEST_P(AttentionTest, BitsDoNotDependOnThreads) {
  const Problem p{7, 49, 2, 32};
  const Doubles qkv = Rounded(NormalValues(p.rows() * 3 * p.width(), 1.2, 1), dtype());
  const Doubles grad_out = Rounded(NormalValues(p.rows() * p.width(), 1, 2), dtype());
  ExpectSameBitsForAnyThreads([&](int threads) {
    Backward b(GetParam(), p, qkv, grad_out, threads);
    return b.bench.Bytes(b.args.grad_qkv);
  });
}

// ---- PoolAttention ----------------------------------------------------------------------------

struct Pool {
  Problem p;
  Doubles query, key_value;
  Pool(const Problem& problem, DType dtype)
      : p(problem),
        query(Rounded(NormalValues(p.width(), 1.5, 1), DType::kF32)),
        key_value(Rounded(NormalValues(p.rows() * 2 * p.width(), 1.5, 2), dtype)) {}
  reference::Head<double> HeadOf(int64_t image, int64_t head) const {
    const auto part = [&](int64_t index) {
      return Slice(key_value, 2 * p.width(), image * p.tokens, p.tokens,
                   index * p.width() + head * p.dim, p.dim);
    };
    return {1,       p.tokens, p.dim, Slice(query, p.width(), 0, 1, head * p.dim, p.dim),
            part(0), part(1)};
  }
};

TEST_P(AttentionTest, PoolForwardMatchesTheReference) {
  for (const Problem& p : kProblems) {
    for (const DType out_type : {dtype(), DType::kF32}) {
      SCOPED_TRACE(Text(p));
      const Pool pool(p, dtype());
      OpBench bench(GetParam());
      PoolAttentionArgs args;
      args.query = bench.Input("query", DType::kF32, {1, p.width()}, pool.query);
      args.key_value = bench.Input("key_value", dtype(), {p.rows(), 2 * p.width()}, pool.key_value);
      args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
      args.out = bench.Output("out", out_type, {p.batch, p.width()});
      args.log_sum_exp = bench.Output("log_sum_exp", DType::kF32, {p.batch, p.heads});
      ASSERT_THAT(bench.Run(args), IsOk());
      const Doubles out = bench.Values(args.out), log_sum_exp = bench.Values(args.log_sum_exp);
      for (int64_t image = 0; image < p.batch; ++image) {
        for (int64_t head = 0; head < p.heads; ++head) {
          const auto h = pool.HeadOf(image, head);
          const auto want = reference::Attention(h);
          ExpectNear(
              Slice(out, p.width(), image, 1, head * p.dim, p.dim), want.out, HalfUlp(out_type),
              (2 * ScoreError(h) + static_cast<double>(p.tokens + 16) * 0x1p-24) * MaxAbs(h.v),
              "out");
          ExpectNear({log_sum_exp[image * p.heads + head]}, want.log_sum_exp, 0x1p-22,
                     ScoreError(h) + 4e-6);
        }
      }
    }
  }
}

struct PoolBackward {
  OpBench bench;
  PoolAttentionGradArgs args;
  PoolBackward(Variant variant, const Pool& pool, const Doubles& grad_out, int threads = 1)
      : bench(variant, threads) {
    const Problem& p = pool.p;
    Doubles out(p.batch * p.width()), log_sum_exp;
    for (int64_t image = 0; image < p.batch; ++image) {
      for (int64_t head = 0; head < p.heads; ++head) {
        const auto want = reference::Attention(pool.HeadOf(image, head));
        log_sum_exp.push_back(want.log_sum_exp[0]);
        std::copy(want.out.begin(), want.out.end(), out.begin() + image * p.width() + head * p.dim);
      }
    }
    const DType dtype = variant.dtype;
    args.grad_out = bench.Input("grad_out", dtype, {p.batch, p.width()}, grad_out);
    args.query = bench.Input("query", DType::kF32, {1, p.width()}, pool.query);
    args.key_value = bench.Input("key_value", dtype, {p.rows(), 2 * p.width()}, pool.key_value);
    args.out = bench.Input("out", dtype, {p.batch, p.width()}, out);
    args.log_sum_exp = bench.Input("log_sum_exp", DType::kF32, {p.batch, p.heads}, log_sum_exp);
    args.batch = p.batch, args.tokens = p.tokens, args.heads = p.heads;
    args.grad_query = bench.Output("grad_query", DType::kF32, {1, p.width()});
    args.grad_key_value = bench.Output("grad_key_value", dtype, {p.rows(), 2 * p.width()});
    EXPECT_THAT(bench.Run(args), IsOk());
  }
};

TEST_P(AttentionTest, PoolBackwardMatchesTheReferenceAndSumsTheQueryOverImages) {
  for (const Problem& p : kProblems) {
    SCOPED_TRACE(Text(p));
    const Pool pool(p, dtype());
    const Doubles grad_out = Rounded(NormalValues(p.batch * p.width(), 1, 3), dtype());
    PoolBackward b(GetParam(), pool, grad_out);
    const Doubles got = b.bench.Values(b.args.grad_key_value),
                  grad_query = b.bench.Values(b.args.grad_query);
    for (int64_t head = 0; head < p.heads; ++head) {
      Doubles query(p.dim), query_bound(p.dim, 1e-12);
      for (int64_t image = 0; image < p.batch; ++image) {
        const auto want = reference::AttentionGrad(
            pool.HeadOf(image, head), Slice(grad_out, p.width(), image, 1, head * p.dim, p.dim),
            HalfUlp(dtype()));
        const auto part = [&](int64_t index) {
          return Slice(got, 2 * p.width(), image * p.tokens, p.tokens,
                       index * p.width() + head * p.dim, p.dim);
        };
        ExpectWithin(part(0), want.k, want.k_bound, "grad_k");
        ExpectWithin(part(1), want.v, want.v_bound, "grad_v");
        for (int64_t c = 0; c < p.dim; ++c) {
          query[c] += want.q[c];
          query_bound[c] += want.q_bound[c] + 0x1p-23 * std::abs(want.q[c]);
        }
      }
      ExpectWithin(Slice(grad_query, p.width(), 0, 1, head * p.dim, p.dim), query, query_bound,
                   "grad_query");
    }
  }
}

TEST_P(AttentionTest, PoolBitsDoNotDependOnThreads) {
  const Pool pool({11, 49, 2, 32}, dtype());
  const Doubles grad_out = NormalValues(pool.p.batch * pool.p.width(), 1, 3);
  ExpectSameBitsForAnyThreads([&](int threads) {
    PoolBackward b(GetParam(), pool, grad_out, threads);
    return b.bench.Bytes(b.args.grad_query);
  });
}

TEST(AttentionArgsTest, WrongShapesAreRejectedByName) {
  OpBench bench({cpu::Isa::kAvx2, DType::kF32});
  SelfAttentionArgs good;
  good.qkv = bench.Input("qkv", DType::kF32, {8, 96}, Doubles(768));
  good.batch = 2, good.tokens = 4, good.heads = 2;
  good.out = bench.Output("out", DType::kF32, {8, 32});
  ASSERT_THAT(bench.Run(good), IsOk());
  const auto reject = [&](const SelfAttentionArgs& args, const std::string& message) {
    EXPECT_THAT(bench.Run(args), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  };
  SelfAttentionArgs args = good;
  args.heads = 3;
  reject(args, "op 0 SelfAttention: width is 32, want a multiple of heads, 3");
  args = good;
  args.heads = 8;
  reject(args, "op 0 SelfAttention: head dim is 4, want a multiple of 8 up to 256");
  args = good;
  args.tokens = 5;
  reject(args, "op 0 SelfAttention: out is [8, 32], want [10, 32]");
  args = good;
  args.qkv.dtype = DType::kBf16;
  reject(args, "op 0 SelfAttention: qkv is bf16, want f32");
  PoolAttentionArgs pool;
  pool.query = bench.Input("query", DType::kF32, {1, 32}, Doubles(32));
  pool.key_value = bench.Input("key_value", DType::kF32, {8, 63}, Doubles(8 * 63));
  pool.batch = 2, pool.tokens = 4, pool.heads = 2;
  pool.out = bench.Output("out", DType::kF32, {2, 32});
  EXPECT_THAT(bench.Run(pool),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("op 0 PoolAttention: key_value is [8, 63], want [8, 64]")));
}

}  // namespace
}  // namespace vitscale
