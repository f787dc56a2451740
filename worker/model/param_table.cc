#include "worker/model/param_table.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/philox.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr Init kZero{InitKind::kConstant, 0};
constexpr Init kOne{InitKind::kConstant, 1};
constexpr Init kMlpBias{InitKind::kNormal, 1e-6};

Init LecunNormal(int64_t fan_in) {
  // Standard deviation of a standard normal cut at +-2: dividing by it gives variance 1 / fan_in
  // after the cut.
  constexpr double kTruncatedStddev = 0.87962566103423978;
  return {InitKind::kTruncatedNormal, std::sqrt(1.0 / fan_in) / kTruncatedStddev};
}
Init XavierUniform(int64_t fan_in, int64_t fan_out) {
  return {InitKind::kUniform, std::sqrt(6.0 / (fan_in + fan_out))};
}

// Appends parameters in the order of use.
class Lister {
 public:
  Lister(const ModelConfig& model, std::vector<Parameter>& list) : m_(model), list_(list) {}

  void All() {
    Embedding();
    for (int i = 0; i < m_.depth; ++i) Block(absl::StrCat("Transformer/encoderblock_", i));
    Norm("Transformer/encoder_norm");
    if (m_.pool == PoolKind::kMap) MapHead("MAPHead_0");
    const int64_t width = m_.width, representation = m_.representation_size;
    if (representation > 0) {
      Kernel("pre_logits/kernel", {width, representation}, LecunNormal(width));
      Plain("pre_logits/bias", {representation}, kZero);
    }
    Add("head/kernel", {m_.head_input(), m_.classes}, kZero, DecayGroup::kHead);
    Plain("head/bias", {m_.classes}, {InitKind::kConstant, m_.head_bias});
  }

 private:
  void Embedding() {
    const int64_t width = m_.width;
    Kernel("embedding/kernel", {m_.patch, m_.patch, m_.channels, width},
           LecunNormal(m_.patch_elements()));
    Plain("embedding/bias", {width}, kZero);
    if (m_.position == PositionKind::kLearned) {
      Plain("pos_embedding", {1, m_.patches(), width}, {InitKind::kNormal, 1 / std::sqrt(width)});
    }
    if (m_.pool == PoolKind::kCls) Plain("cls", {1, 1, width}, kZero);
  }
  void Block(const std::string& at) {
    Norm(absl::StrCat(at, "/LayerNorm_0"));
    Attention(absl::StrCat(at, "/MultiHeadDotProductAttention_0"));
    Norm(absl::StrCat(at, "/LayerNorm_1"));
    Mlp(absl::StrCat(at, "/MlpBlock_0"));
  }
  void MapHead(const std::string& at) {
    Plain(absl::StrCat(at, "/probe"), {1, 1, m_.width}, XavierUniform(1, m_.width));
    Attention(absl::StrCat(at, "/MultiHeadDotProductAttention_0"));
    Norm(absl::StrCat(at, "/LayerNorm_0"));
    Mlp(absl::StrCat(at, "/MlpBlock_0"));
  }
  void Norm(const std::string& at) {
    Plain(absl::StrCat(at, "/scale"), {m_.width}, kOne);
    Plain(absl::StrCat(at, "/bias"), {m_.width}, kZero);
  }
  // Fans of attention kernels are those of the flattened 2-D shape.
  void Attention(const std::string& at) {
    const int64_t width = m_.width, heads = m_.heads, head_dim = m_.head_dim();
    for (const char* which : {"query", "key", "value"}) {
      Kernel(absl::StrCat(at, "/", which, "/kernel"), {width, heads, head_dim},
             XavierUniform(width, width));
      Plain(absl::StrCat(at, "/", which, "/bias"), {heads, head_dim}, kZero);
      list_.back().is_key_bias = absl::string_view(which) == "key";
    }
    Kernel(absl::StrCat(at, "/out/kernel"), {heads, head_dim, width}, XavierUniform(width, width));
    Plain(absl::StrCat(at, "/out/bias"), {width}, kZero);
  }
  void Mlp(const std::string& at) {
    const int64_t width = m_.width, hidden = m_.mlp_width;
    Kernel(absl::StrCat(at, "/Dense_0/kernel"), {width, hidden}, XavierUniform(width, hidden));
    Plain(absl::StrCat(at, "/Dense_0/bias"), {hidden}, kMlpBias);
    Kernel(absl::StrCat(at, "/Dense_1/kernel"), {hidden, width}, XavierUniform(hidden, width));
    Plain(absl::StrCat(at, "/Dense_1/bias"), {width}, kMlpBias);
  }

  void Kernel(std::string name, Shape shape, Init init) {
    Add(std::move(name), std::move(shape), init, DecayGroup::kBody);
  }
  void Plain(std::string name, Shape shape, Init init) {
    Add(std::move(name), std::move(shape), init, DecayGroup::kNone);
  }
  void Add(std::string name, Shape shape, Init init, DecayGroup decay) {
    Parameter p;
    p.name = std::move(name);
    p.shape = std::move(shape);
    p.init = init;
    p.decay = decay;
    p.factoring = FactoringOf(p.shape);
    list_.push_back(std::move(p));
  }

  const ModelConfig& m_;
  std::vector<Parameter>& list_;
};

int64_t SecondMomentOf(const Parameter& p, OptimizerKind optimizer) {
  switch (optimizer) {
    case OptimizerKind::kAdafactor:
      return SecondMomentElements(p.shape, p.factoring);
    case OptimizerKind::kAdamW:
      return p.elements();
    case OptimizerKind::kSgd:
      return 0;
  }
  return 0;
}

TensorView ViewOf(const Parameter& p, Arena arena, int64_t offset, DType dtype, Shape shape) {
  return {p.name, arena, offset * DTypeBytes(dtype), dtype, std::move(shape)};
}

// ---- initial values ----------------------------------------------------------

// A tensor's values come in blocks, each a stream of its own, so that they can be made in parallel.
constexpr int64_t kInitBlock = 4096;

double TruncatedNormal(Draws& draws) {
  double x = draws.Normal();
  while (std::abs(x) > 2) x = draws.Normal();
  return x;
}

double Draw(const Init& init, Draws& draws) {
  switch (init.kind) {
    case InitKind::kConstant:
      return init.value;
    case InitKind::kNormal:
      return init.value * draws.Normal();
    case InitKind::kTruncatedNormal:
      return init.value * TruncatedNormal(draws);
    case InitKind::kUniform:
      return init.value * (2 * draws.Uniform() - 1);
  }
  return 0;
}

}  // namespace

Factoring FactoringOf(const Shape& shape) {
  constexpr int64_t kSmallestDim = 32;
  if (shape.size() < 2) return {};
  absl::InlinedVector<int, 4> axes(shape.size());
  std::iota(axes.begin(), axes.end(), 0);
  std::stable_sort(axes.begin(), axes.end(), [&](int a, int b) { return shape[a] < shape[b]; });
  const int d0 = axes[axes.size() - 1], d1 = axes[axes.size() - 2];
  if (shape[d1] < kSmallestDim) return {};
  return {true, d0, d1};
}

int64_t SecondMomentElements(const Shape& shape, const Factoring& factoring) {
  const int64_t all = ElementCount(shape);
  if (!factoring.factored) return all;
  return all / shape[factoring.axis_d0] + all / shape[factoring.axis_d1];
}

ParamTable::ParamTable(const ModelConfig& model, OptimizerKind optimizer) {
  Lister(model, parameters_).All();
  by_name_.reserve(parameters_.size());
  for (Parameter& p : parameters_) {
    by_name_[p.name] = static_cast<int>(&p - parameters_.data());
    p.second_moment_elements = SecondMomentOf(p, optimizer);
    p.offset_elements = arena_elements_;
    p.second_moment_offset = second_moment_arena_elements_;
    arena_elements_ += AlignUp(p.elements(), kParameterAlignment);
    second_moment_arena_elements_ += AlignUp(p.second_moment_elements, kParameterAlignment);
    parameter_count_ += p.elements();
    second_moment_count_ += p.second_moment_elements;
  }
  for (Parameter& p : parameters_) {
    p.gradient_offset =
        arena_elements_ - p.offset_elements - AlignUp(p.elements(), kParameterAlignment);
  }
}

int64_t ParamTable::body_parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_) {
    const bool head = absl::StartsWith(p.name, "MAPHead_0/") ||
                      absl::StartsWith(p.name, "pre_logits/") || absl::StartsWith(p.name, "head/");
    if (!head) count += p.elements();
  }
  return count;
}

const Parameter* ParamTable::Find(absl::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &parameters_[found->second];
}

TensorView ParamTable::ParameterView(const Parameter& p) const {
  return ViewOf(p, Arena::kParameters, p.offset_elements, DType::kF32, p.shape);
}
TensorView ParamTable::GradientView(const Parameter& p) const {
  return ViewOf(p, Arena::kGradients, p.gradient_offset, DType::kF32, p.shape);
}
TensorView ParamTable::MomentumView(const Parameter& p) const {
  return ViewOf(p, Arena::kMomentum, p.offset_elements, DType::kBf16, p.shape);
}
TensorView ParamTable::SecondMomentView(const Parameter& p) const {
  if (p.second_moment_elements == 0) return {};
  return ViewOf(p, Arena::kSecondMoment, p.second_moment_offset, DType::kF32,
                {p.second_moment_elements});
}
TensorView ParamTable::AverageView(const Parameter& p) const {
  return ViewOf(p, Arena::kAverage, p.offset_elements, DType::kF32, p.shape);
}

void InitializeParameter(const ParamTable& table, int index, uint64_t seed,
                         absl::Span<float> values) {
  const Init& init = table.parameters()[index].init;
  const int64_t size = static_cast<int64_t>(values.size());
  for (int64_t begin = 0; begin < size; begin += kInitBlock) {
    Draws draws(seed, DrawPurpose::kInitialise, index, begin / kInitBlock);
    const int64_t end = std::min(size, begin + kInitBlock);
    for (int64_t i = begin; i < end; ++i) values[i] = static_cast<float>(Draw(init, draws));
  }
}

absl::Status InitializeParameters(const ParamTable& table, uint64_t seed, absl::Span<float> arena) {
  if (static_cast<int64_t>(arena.size()) != table.arena_elements()) {
    return absl::InvalidArgumentError(absl::StrCat("parameter arena has ", arena.size(),
                                                   " elements, want ", table.arena_elements()));
  }
  std::fill(arena.begin(), arena.end(), 0.0f);
  for (size_t i = 0; i < table.parameters().size(); ++i) {
    const Parameter& p = table.parameters()[i];
    InitializeParameter(table, i, seed, arena.subspan(p.offset_elements, p.elements()));
  }
  return absl::OkStatus();
}

}  // namespace vitscale
