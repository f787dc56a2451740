// Adafactor on CUDA. Contract: AdafactorApplyArgs in kernels/ops.h. Reference:
// kernels/cpu/adafactor.cc; the factors are made the same way, in f64 and rounded once.
//
//   kernel          tensors               bytes per parameter
//   UpdateMoments   factored              sums, v, factors: below 0.3 for rows of 104
//   UpdateTensors
//     vector        factored              g 4, m 2 + 2, p 4 + 4: 16, and factors from cache
//     strided       factored, b % 4 > 0   the same, 4 and 2 bytes an access
//     runs          others                g 4, m 2 + 2, p 4 + 4, v 4 + 4: 24
//
// About 16 bytes per parameter. Floor on an H100 (3.35 TB/s): S/16 (23.8 M) 381 MB, 114 us; G/14
// (1.88 G) 30.1 GB, 9.0 ms. Launches: 4 (scalars, moments, update, norms), whatever the number of
// tensors.

#include <utility>
#include <vector>

#include "kernels/cuda/update_op.h"

namespace vitscale::cuda {
namespace {

// Inside the moving average: big_vision optax.py, scale_by_adafactor.
constexpr float kMomentEpsilon = 1e-30f;

constexpr int kBlocksAtOnce = 4;  // of a multiprocessor: 64 registers, 80 KB of loads under way
// Of a warp: their loads are under way together. Strided ones need the registers for addresses.
template <bool kVector>
inline constexpr int kRowsAtOnce = kVector ? 2 : 1;

// ---- factored moments ---------------------------------------------------------------------------

// v_row or v_col of one tensor, and the factors that come of it. Laid out [groups, mean, inner].
struct MomentPart {
  const float* sums = nullptr;  // as GradStats wrote them
  float* moment = nullptr;
  float* factors = nullptr;
  int64_t count = 0;   // elements
  int64_t summed = 1;  // gradients behind each sum
  int64_t mean = 0;    // v_row: how many elements share a mean; v_col: 0
  int64_t inner = 1;
};

__device__ double DecayedMoment(const MomentPart& part, int64_t i, const UpdateScalars& s,
                                double scale) {
  const double mean = part.sums[i] * scale + static_cast<double>(kMomentEpsilon);
  const float v = static_cast<float>(s.beta2 * part.moment[i] + (1.0 - s.beta2) * mean);
  part.moment[i] = v;
  return v;
}

// v_row: one block per mean. What an element of the raw gradient weighs in the momentum goes into
// these factors.
__device__ void RowMoments(const MomentPart& part, int64_t group, const UpdateScalars& s,
                           double scale, double share) {
  const int64_t first = group / part.inner * part.mean * part.inner + group % part.inner;
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < part.mean; i += kGridThreads) {
    sum += DecayedMoment(part, first + i * part.inner, s, scale);
  }
  sum = BlockSum(sum, SharedMemory<UpdateShared>().slots);
  const double root = share * sqrt(sum / static_cast<double>(part.mean));
  for (int64_t i = threadIdx.x; i < part.mean; i += kGridThreads) {
    const int64_t at = first + i * part.inner;  // this thread wrote it
    part.factors[at] = static_cast<float>(root / sqrt(static_cast<double>(part.moment[at])));
  }
}

__global__ void __launch_bounds__(kGridThreads)
    UpdateMoments(const MomentPart* parts, const WorkItem* items, const UpdateScalars* scalars,
                  double gradient_share) {
  const UpdateScalars s = *scalars;
  if (s.go == 0) return;
  const WorkItem item = items[blockIdx.x];
  const MomentPart part = parts[item.tensor];
  // The sums are of scaled, not of clipped gradients.
  const double scale = s.clip * s.clip / static_cast<double>(part.summed);
  if (part.mean > 0) {
    RowMoments(part, item.cell, s, scale, gradient_share * s.gradient_scale_exact);
    return;
  }
  const int64_t i = static_cast<int64_t>(item.cell) * kGridThreads + threadIdx.x;
  if (i < part.count) {
    part.factors[i] = static_cast<float>(1.0 / sqrt(DecayedMoment(part, i, s, scale)));
  }
}

// ---- update -------------------------------------------------------------------------------------

// Tensors that are not factored.
struct AdafactorRule {
  static constexpr bool kMoment = true;
  __device__ static void Fill(const UpdateConstants& constants, const StepScalars& step,
                              UpdateScalars& s) {
    s.beta2 = step.beta2;
    s.moment_decay = Split(step.beta2);
    s.square_share = Split(1.0 - step.beta2);
  }
  __device__ static float Step(const UpdateScalars& s, float g, float& m, float& v) {
    v = NewMoment(s, fmaf(g, g, kMomentEpsilon), v);
    return m = NewMomentum(s, s.gradient_share * (g / sqrtf(v)), m);
  }
};

// What a lane does of a few rows.
template <int kRows>
struct RowsInRegisters {
  float g[kRows][4], m[kRows][4], p[kRows][4];
  float row_factors[kRows];
  FourElements four[kRows];  // none are valid where the row does not exist
};

template <bool kVector, int kRows>
__device__ void LoadRows(const UpdateTensor& tensor, const WarpCell& at, int row,
                         RowsInRegisters<kRows>& rows) {
  const ParameterGrid& grid = tensor.grid;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    rows.four[r] = at.four;
    if (row + r >= at.rows) rows.four[r].valid = 0;
    const int64_t from = (at.row + row + r) * grid.row_length + at.column;
    LoadFour<kVector>(tensor.gradient + from, rows.four[r], rows.g[r]);
    LoadFour<kVector>(tensor.momentum + from, rows.four[r], rows.m[r]);
    LoadFour<kVector>(tensor.parameter + from, rows.four[r], rows.p[r]);
    rows.row_factors[r] =
        row + r < at.rows ? tensor.row_factors[(at.row + row + r) * grid.runs + at.run] : 0.0f;
  }
}
template <bool kVector, int kRows>
__device__ void StoreRows(const UpdateTensor& tensor, const WarpCell& at, int row,
                          const RowsInRegisters<kRows>& rows) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t to = (at.row + row + r) * tensor.grid.row_length + at.column;
    StoreFour<kVector>(tensor.momentum + to, rows.four[r], rows.m[r]);
    StoreFour<kVector>(tensor.parameter + to, rows.four[r], rows.p[r]);
  }
}

template <bool kVector>
__device__ UpdateSums UpdateCell(const UpdateTensor& tensor, int64_t cell, const UpdateScalars& s) {
  const ParameterGrid& grid = tensor.grid;
  const WarpCell at = PlaceInCell(grid, cell, Warp(), Lane());
  UpdateSums sums;
  if (at.four.valid == 0) return sums;
  const TensorRates rates = RatesOf(tensor, s);
  float column_factors[4];
  LoadFour<kVector>(tensor.column_factors + at.outer * grid.row_length + at.column, at.four,
                    column_factors);
  for (int row = 0; row < at.rows; row += kRowsAtOnce<kVector>) {
    RowsInRegisters<kRowsAtOnce<kVector>> rows;
    LoadRows<kVector>(tensor, at, row, rows);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce<kVector>; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float share = rows.g[r][i] * rows.row_factors[r] * column_factors[i];
        rows.m[r][i] = NewMomentum(s, share, rows.m[r][i]);
        TakeOff(rates, rows.m[r][i], rows.p[r][i], sums);  // zeros where there is no element
      }
    }
    StoreRows<kVector>(tensor, at, row, rows);
  }
  return sums;
}

__global__ void __launch_bounds__(kGridThreads, kBlocksAtOnce)
    UpdateTensors(const UpdateTensor* tensors, const WorkItem* items, const UpdateScalars* scalars,
                  UpdateSums* slots) {
  const UpdateScalars s = *scalars;  // copies, which stores to parameters cannot change
  if (s.go == 0) return;
  const WorkItem item = items[blockIdx.x];
  const UpdateTensor tensor = tensors[item.tensor];
  UpdateSums sums;
  if (!tensor.factored) {
    sums = UpdateRun<AdafactorRule>(tensor, item.cell, s);
  } else if (tensor.grid.vector) {
    sums = UpdateCell<true>(tensor, item.cell, s);
  } else {
    sums = UpdateCell<false>(tensor, item.cell, s);
  }
  StoreSums(sums, slots);
}

// ---- launcher -----------------------------------------------------------------------------------

struct MomentTables {
  std::vector<MomentPart> parts;
  std::vector<WorkItem> items;
};

void AddPart(const MomentPart& part, MomentTables& tables) {
  AppendItems(
      static_cast<int>(tables.parts.size()),
      part.mean > 0 ? part.count / part.mean : (part.count + kGridThreads - 1) / kGridThreads,
      tables.items);
  tables.parts.push_back(part);
}

// `sums` and `moment` begin where those of the tensor begin; gives `tensor` its factors.
void AddFactored(const FactoredShape& shape, const float* sums, float* moment, UpdateTensor& tensor,
                 CudaOpBuilder& builder, MomentTables& tables) {
  MomentPart rows, columns;
  rows.sums = sums + shape.row_sums_at();
  rows.moment = moment + shape.row_sums_at();
  rows.count = shape.row_sum_count();
  rows.summed = shape.b;
  tensor.row_factors = rows.factors = builder.Reserve<float>(rows.count);
  columns.sums = sums + shape.column_sums_at();
  columns.moment = moment + shape.column_sums_at();
  columns.count = shape.column_sum_count();
  columns.summed = shape.a;
  tensor.column_factors = columns.factors = builder.Reserve<float>(columns.count);
  if (shape.v_row_has_a) {
    rows.mean = shape.a;  // of [outer, a, mid * inner]
    rows.inner = shape.mid * shape.inner;
  } else {
    columns.mean = shape.b;  // of [outer * mid, b, inner]
    columns.inner = shape.inner;
  }
  AddPart(rows, tables);
  AddPart(columns, tables);
}

MomentTables AddAllFactored(const AdafactorApplyArgs& args, UpdatePlan& plan,
                            CudaOpBuilder& builder) {
  MomentTables tables;
  const float* sums = builder.Memory<const float>(args.factored_sums);
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    if (!plan.tensors[i].factored) continue;
    const OptimizedTensor& view = args.tensors[i];
    const FactoredShape shape = FactoredShapeOf(view.parameter.shape, view.factoring);
    AddFactored(shape, sums, builder.Memory<float>(view.second_moment), plan.tensors[i], builder,
                tables);
    sums += shape.moment_count();
  }
  return tables;
}

class AdafactorOp : public CudaOp {
 public:
  AdafactorOp(const AdafactorApplyArgs& args, CudaOpBuilder& builder)
      : plan_(MakeUpdatePlan(args, /*factored=*/true, builder)) {
    const MomentTables tables = AddAllFactored(args, plan_, builder);
    parts_ = OnDevice(tables.parts, builder);
    part_items_ = OnDevice(tables.items, builder);
    part_blocks_ = static_cast<unsigned>(tables.items.size());
    tensors_ = OnDevice(plan_.tensors, builder);
    items_ = OnDevice(plan_.items, builder);
    blocks_ = static_cast<unsigned>(plan_.items.size());
  }

  absl::Status Run(const RunContext& context) override {
    VITSCALE_RETURN_IF_ERROR(LaunchScalars<AdafactorRule>(plan_, context));
    if (part_blocks_ > 0) {
      VITSCALE_RETURN_IF_ERROR(Launch(UpdateMoments, part_blocks_, kGridThreads,
                                      sizeof(UpdateShared), context.stream, parts_, part_items_,
                                      plan_.scalars, plan_.constants.gradient_share));
    }
    if (blocks_ > 0) {
      VITSCALE_RETURN_IF_ERROR(Launch(UpdateTensors, blocks_, kGridThreads, sizeof(UpdateShared),
                                      context.stream, tensors_, items_, plan_.scalars,
                                      plan_.slots));
    }
    return LaunchUpdateSums(plan_, context.stream);
  }
  std::string variant() const override {
    return DescribeTensors(plan_.tensors, plan_.items.size());
  }

 private:
  UpdatePlan plan_;
  const MomentPart* parts_;
  const WorkItem* part_items_;
  const UpdateTensor* tensors_;
  const WorkItem* items_;
  unsigned part_blocks_, blocks_;
};

}  // namespace

CudaOpOr MakeCudaOp(const AdafactorApplyArgs& args, CudaOpBuilder& builder) {
  return std::make_unique<AdafactorOp>(args, builder);
}

}  // namespace vitscale::cuda
