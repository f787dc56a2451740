// Fill, Copy, Cast and PolyakAverage on the CPU. Contract: kernels/ops.h.

#include "kernels/cpu/elementwise.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels/base/bf16.h"
#include "kernels/cpu/cpu_op.h"

VITSCALE_SIMD_TABLE(ElementwiseKernels, kElementwiseKernels, ElementwiseKernelsFor)

namespace vitscale::cpu {
namespace {

constexpr int64_t kElementsPerTile = 16 * 1024;

// Elements cut into items: images inside a panel group, fixed tiles outside.
RowTiling TileElements(const CpuOpBuilder& builder, int64_t elements) {
  if (builder.batch() > 0) return {elements, builder.batch(), elements / builder.batch()};
  return {elements, (elements + kElementsPerTile - 1) / kElementsPerTile, kElementsPerTile};
}

// `body(begin, end)` on element ranges; `Gated` ones do nothing while StepScalars::apply is 0.
template <typename Body>
class ElementwiseOp : public CpuOp {
 public:
  ElementwiseOp(RowTiling tiling, bool gated, Body body)
      : tiling_(tiling), gated_(gated), body_(body) {}
  int64_t items(int phase) const override { return tiling_.items; }
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override {
    if (gated_ && context.scalars->apply == 0) return;
    body_(tiling_.RowBegin(begin), tiling_.RowEnd(end - 1));
  }

 private:
  RowTiling tiling_;
  bool gated_;
  Body body_;
};

template <typename Body>
CpuOpOr MakeElementwise(RowTiling tiling, bool gated, Body body) {
  return std::make_unique<ElementwiseOp<Body>>(tiling, gated, body);
}

template <typename T>
CpuOpOr MakeFill(const FillArgs& args, CpuOpBuilder& builder, T value) {
  T* y = builder.Memory<T>(args.y);
  return MakeElementwise(TileElements(builder, args.y.elements()), false,
                         [=](int64_t begin, int64_t end) { std::fill(y + begin, y + end, value); });
}

}  // namespace

CpuOpOr MakeCpuOp(const FillArgs& args, CpuOpBuilder& builder) {
  switch (args.y.dtype) {
    case DType::kU8:
      return MakeFill<uint8_t>(args, builder, static_cast<uint8_t>(args.value));
    case DType::kBf16:
      return MakeFill<uint16_t>(args, builder, ToBf16(static_cast<float>(args.value)));
    case DType::kF32:
      return MakeFill<float>(args, builder, static_cast<float>(args.value));
    case DType::kF64:
      return MakeFill<double>(args, builder, args.value);
    case DType::kI32:
      return MakeFill<int32_t>(args, builder, static_cast<int32_t>(args.value));
    case DType::kI64:
      return MakeFill<int64_t>(args, builder, static_cast<int64_t>(args.value));
  }
  return absl::InternalError("Fill: dtype out of range");
}

CpuOpOr MakeCpuOp(const CopyArgs& args, CpuOpBuilder& builder) {
  const std::byte* x = builder.Memory<const std::byte>(args.x);
  std::byte* y = builder.Memory<std::byte>(args.y);
  const int64_t size = DTypeBytes(args.x.dtype);
  return MakeElementwise(TileElements(builder, args.x.elements()), false,
                         [=](int64_t begin, int64_t end) {
                           std::memmove(y + begin * size, x + begin * size, (end - begin) * size);
                         });
}

CpuOpOr MakeCpuOp(const CastArgs& args, CpuOpBuilder& builder) {
  const ElementwiseKernels* kernels = &ElementwiseKernelsFor(builder.isa());
  const RowTiling tiling = TileElements(builder, args.x.elements());
  if (args.x.dtype == args.y.dtype) return MakeCpuOp(CopyArgs{args.x, args.y}, builder);
  if (args.x.dtype == DType::kF32) {
    return MakeElementwise(
        tiling, false,
        [=, x = builder.Memory<const float>(args.x), y = builder.Memory<Bf16>(args.y)](
            int64_t begin, int64_t end) { kernels->to_bf16(x + begin, y + begin, end - begin); });
  }
  return MakeElementwise(
      tiling, false,
      [=, x = builder.Memory<const Bf16>(args.x), y = builder.Memory<float>(args.y)](
          int64_t begin, int64_t end) { kernels->to_f32(x + begin, y + begin, end - begin); });
}

CpuOpOr MakeCpuOp(const PolyakAverageArgs& args, CpuOpBuilder& builder) {
  const ElementwiseKernels* kernels = &ElementwiseKernelsFor(builder.isa());
  const float* parameters = builder.Memory<const float>(args.parameters);
  float* average = builder.Memory<float>(args.average);
  const float decay = args.decay;
  return MakeElementwise(
      TileElements(builder, args.average.elements()), true, [=](int64_t begin, int64_t end) {
        kernels->average(parameters + begin, decay, 1.0f - decay, average + begin, end - begin);
      });
}

}  // namespace vitscale::cpu
