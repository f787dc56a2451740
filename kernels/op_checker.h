// The vocabulary of check*.cc: one OpChecker looks at one op and keeps the first thing that is
// wrong.

#ifndef KERNELS_OP_CHECKER_H_
#define KERNELS_OP_CHECKER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/program.h"

namespace vitscale {

// A set of dtypes that an operand may have.
struct DTypes {
  uint32_t bits = 0;
  bool Has(DType dtype) const { return (bits >> static_cast<int>(dtype)) & 1u; }
};
constexpr DTypes Only(DType dtype) { return {1u << static_cast<int>(dtype)}; }
inline constexpr DTypes kOnlyF32 = Only(DType::kF32);
inline constexpr DTypes kComputeOrF32 = {Only(DType::kF32).bits | Only(DType::kBf16).bits};

inline constexpr int64_t kAny = -1;  // a dimension that may be anything positive

class OpChecker {
 public:
  OpChecker(int64_t index, const char* op_name, int64_t group_batch)
      : index_(index), op_name_(op_name), group_batch_(group_batch) {}

  // The operand must be there, aligned, of one of the dtypes and of this shape (kAny fits any
  // dimension).
  void Is(const TensorView& view, absl::string_view operand, DTypes dtypes, const Shape& shape);
  // [rows, columns], or padded (PadColumns) behind a weight in one part.
  void IsMaybePadded(const TensorView& view, absl::string_view operand, DTypes dtypes,
                     const Shape& shape, const WeightParts& weight);
  // The same as Is if it is there.
  void Maybe(const TensorView& view, absl::string_view operand, DTypes dtypes, const Shape& shape);
  void InArena(const TensorView& view, absl::string_view operand, Arena arena);

  // "<message>" is what was wrong and what was wanted, the operand first.
  void Require(bool condition, absl::string_view message);
  void Positive(int64_t value, absl::string_view name);
  // Inside a panel group the rows of every tensor are those of `batch` whole images.
  void RowsInGroup(int64_t rows, absl::string_view operand);
  void BatchInGroup(int64_t batch);
  void OutsideGroups();
  // [in, out] in parts: sets the sum of `out`; parts must be f32 and share `in`.
  int64_t PartsWidth(const WeightParts& parts, absl::string_view operand, int64_t in, Arena arena);
  // [out] in parts, as many and as wide as the weight's.
  void BiasParts(const WeightParts& bias, absl::string_view operand, const WeightParts& weight,
                 Arena arena);

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  bool in_group() const { return group_batch_ > 0; }

 private:
  int64_t index_;
  const char* op_name_;
  int64_t group_batch_;
  absl::Status status_;
};

// One overload per op. check.cc: input, pooling, markers; check_linear.cc: linear, normalisation;
// check_attention.cc; check_train.cc: loss, optimizer, housekeeping.
void Check(const ImagesToPatchesArgs& a, OpChecker& c);
void Check(const EmbedTokensArgs& a, OpChecker& c);
void Check(const EmbedTokensGradArgs& a, OpChecker& c);
void Check(const LinearArgs& a, OpChecker& c);
void Check(const LinearGradInputArgs& a, OpChecker& c);
void Check(const LinearGradWeightArgs& a, OpChecker& c);
void Check(const LayerNormArgs& a, OpChecker& c);
void Check(const ResidualLayerNormArgs& a, OpChecker& c);
void Check(const LayerNormGradArgs& a, OpChecker& c);
void Check(const SelfAttentionArgs& a, OpChecker& c);
void Check(const SelfAttentionGradArgs& a, OpChecker& c);
void Check(const PoolAttentionArgs& a, OpChecker& c);
void Check(const PoolAttentionGradArgs& a, OpChecker& c);
void Check(const MeanPoolArgs& a, OpChecker& c);
void Check(const MeanPoolGradArgs& a, OpChecker& c);
void Check(const SelectTokenArgs& a, OpChecker& c);
void Check(const SelectTokenGradArgs& a, OpChecker& c);
void Check(const TanhArgs& a, OpChecker& c);
void Check(const TanhGradArgs& a, OpChecker& c);
void Check(const SigmoidLossArgs& a, OpChecker& c);
void Check(const SoftmaxLossArgs& a, OpChecker& c);
void Check(const GradStatsArgs& a, OpChecker& c);
void Check(const AdafactorApplyArgs& a, OpChecker& c);
void Check(const AdamWApplyArgs& a, OpChecker& c);
void Check(const SgdApplyArgs& a, OpChecker& c);
void Check(const PrepareWeightsArgs& a, OpChecker& c);
void Check(const PolyakAverageArgs& a, OpChecker& c);
void Check(const DigestArgs& a, OpChecker& c);
void Check(const FillArgs& a, OpChecker& c);
void Check(const CopyArgs& a, OpChecker& c);
void Check(const CastArgs& a, OpChecker& c);
void Check(const PanelBeginArgs& a, OpChecker& c);
void Check(const PanelEndArgs& a, OpChecker& c);
void Check(const GradientsReadyArgs& a, OpChecker& c);
void Check(const PhaseArgs& a, OpChecker& c);

}  // namespace vitscale

#endif  // KERNELS_OP_CHECKER_H_
