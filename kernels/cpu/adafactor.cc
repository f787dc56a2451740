// Adafactor on the CPU: the variant of arXiv:2106.04560, section 3.4 (big_vision optax.py,
// scale_by_adafactor; optax factorized.py). Phase 0, one item per factored tensor: v_row and v_col
// from the sums of GradStats, and from them the factors of rows and columns. Phase 1: gradient,
// momentum and master once.
//
//   u = g (v_row / mean(v_row))^-1/2 v_col^-1/2
//
// is computed as g * (sqrt(mean) / sqrt(v_row)) * (1 / sqrt(v_col)), which stays finite where the
// quotient would not: a gradient of zero gives an update of zero, never NaN. The factors are made
// in f64 and rounded once.

#include <cmath>
#include <memory>
#include <vector>

#include "kernels/cpu/update_op.h"

namespace vitscale::cpu {
namespace {

float RootQuotient(double numerator, double v) {
  return static_cast<float>(numerator / std::sqrt(v));
}

struct FactoredTensor {
  int tensor = 0;
  const float* sums = nullptr;      // as GradStats wrote them, laid out like the second moment
  float* row_factors = nullptr;     // [outer, a, mid, inner]
  float* column_factors = nullptr;  // [outer, mid, b, inner]
};

class AdafactorOp : public UpdateOp {
 public:
  AdafactorOp(const AdafactorApplyArgs& args, int64_t factored_count, CpuOpBuilder& builder)
      : UpdateOp(args, /*factored=*/true, factored_count, builder),
        sums_(builder.Memory<const float>(args.factored_sums)),
        factored_of_(tensors_.size()) {
    const float* sums = sums_;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (!tensors_[i].factored) continue;
      const FactoredShape& shape = tensors_[i].shape;
      factored_of_[i] = static_cast<int>(factored_.size());
      factored_.push_back({static_cast<int>(i), sums, builder.Reserve<float>(shape.row_sum_count()),
                           builder.Reserve<float>(shape.column_sum_count())});
      sums += shape.moment_count();
    }
  }

 protected:
  UpdateScalars ScalarsOf(const StepScalars& step) const override {
    UpdateScalars scalars;
    scalars.momentum_decay = MomentumDecay();
    scalars.gradient_share = GradientShare();
    scalars.beta2 = step.beta2;
    scalars.moment_decay = SplitFloat(step.beta2);
    scalars.square_share = SplitFloat(1.0 - step.beta2);
    return scalars;
  }
  void Prepare(const UpdateScalars& scalars, int64_t item) override;
  void Update(const UpdateScalars& scalars, const UpdateTile& tile, UpdateSums* sums) override;

 private:
  void RowFactors(const float* v_row, double share, int64_t outer, int64_t count, int64_t inner,
                  float* factors);

  const float* sums_;
  std::vector<FactoredTensor> factored_;
  std::vector<int> factored_of_;  // tensor -> index in factored_
};

// Factors of v_row [outer, count, inner], whose mean runs over `count`, times `share`.
void AdafactorOp::RowFactors(const float* v_row, double share, int64_t outer, int64_t count,
                             int64_t inner, float* factors) {
  for (int64_t o = 0; o < outer; ++o, v_row += count * inner, factors += count * inner) {
    for (int64_t k = 0; k < inner; ++k) {
      double sum = 0.0;
      for (int64_t i = 0; i < count; ++i) sum += v_row[i * inner + k];
      const double root = share * std::sqrt(sum / static_cast<double>(count));
      for (int64_t i = 0; i < count; ++i) {
        factors[i * inner + k] = RootQuotient(root, v_row[i * inner + k]);
      }
    }
  }
}

void AdafactorOp::Prepare(const UpdateScalars& scalars, int64_t item) {
  const FactoredTensor& factored = factored_[item];
  const UpdateTensor& tensor = tensors_[factored.tensor];
  const FactoredShape& shape = tensor.shape;
  const double clip = ClipFactor();  // the sums are of scaled, not of clipped gradients
  const double square = clip * clip;
  float* row_moment = tensor.all.second_moment + shape.row_sums_at();
  float* column_moment = tensor.all.second_moment + shape.column_sums_at();
  kernels_.decay_moment(factored.sums + shape.row_sums_at(), square / static_cast<double>(shape.b),
                        scalars.beta2, row_moment, shape.row_sum_count());
  kernels_.decay_moment(factored.sums + shape.column_sums_at(),
                        square / static_cast<double>(shape.a), scalars.beta2, column_moment,
                        shape.column_sum_count());
  // What an element of the raw gradient weighs in the momentum goes into the factors of v_row.
  const double share = (1.0 - beta1_) * scalars.gradient_scale_exact;
  if (shape.v_row_has_a) {
    RowFactors(row_moment, share, shape.outer, shape.a, shape.mid * shape.inner,
               factored.row_factors);
    for (int64_t i = 0; i < shape.column_sum_count(); ++i) {
      factored.column_factors[i] = RootQuotient(1.0, column_moment[i]);
    }
  } else {
    RowFactors(column_moment, share, shape.outer * shape.mid, shape.b, shape.inner,
               factored.column_factors);
    for (int64_t i = 0; i < shape.row_sum_count(); ++i) {
      factored.row_factors[i] = RootQuotient(1.0, row_moment[i]);
    }
  }
}

void AdafactorOp::Update(const UpdateScalars& scalars, const UpdateTile& tile, UpdateSums* sums) {
  const UpdateTensor& tensor = tensors_[tile.tensor];
  if (!tensor.factored) return kernels_.adafactor(scalars, SpanOf(tile), sums);
  const FactoredTensor& factored = factored_[factored_of_[tile.tensor]];
  const FactoredShape& shape = tensor.shape;
  FactoredSpan span;
  span.elements = tensor.all;
  span.elements.gradient += tile.begin * shape.row_length();
  span.elements.momentum += tile.begin * shape.row_length();
  span.elements.parameter += tile.begin * shape.row_length();
  span.rows = tile.end - tile.begin;
  span.columns = shape.row_length();
  span.elements.count = span.rows * span.columns;
  span.segment = shape.segment();
  span.inner = shape.inner;
  span.row_factors = factored.row_factors + tile.begin * shape.mid * shape.inner;
  span.column_factors = factored.column_factors + tile.begin / shape.a * shape.row_length();
  kernels_.adafactor_factored(scalars, span, sums);
}

}  // namespace

CpuOpOr MakeCpuOp(const AdafactorApplyArgs& args, CpuOpBuilder& builder) {
  int64_t factored = 0;
  for (const OptimizedTensor& tensor : args.tensors) factored += tensor.factoring.factored ? 1 : 0;
  return std::make_unique<AdafactorOp>(args, factored, builder);
}

}  // namespace vitscale::cpu
