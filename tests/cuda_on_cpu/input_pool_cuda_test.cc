// ImagesToPatches, EmbedTokens, MeanPool, SelectToken, Tanh and their gradients on CUDA against the
// CPU.

#include <cmath>
#include <string>
#include <vector>

#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::StartsWith;

constexpr DType kTypes[] = {DType::kF32, DType::kBf16};

// ---- ImagesToPatches ----------------------------------------------------------------------------

struct Images {
  int64_t batch, height, width, channels, crop_height, crop_width, patch;
  Doubles augment;
};

std::string ExpectPatchesOfTheCpu(const Images& i, DType type) {
  SCOPED_TRACE(testing::Message() << "patch " << i.patch << ", " << i.channels << " channels, "
                                  << DTypeName(type));
  OpPair pair(type);
  ImagesToPatchesArgs args;
  const int64_t pixels = i.batch * i.height * i.width * i.channels;
  args.images = pair.Input("images", DType::kU8, {i.batch, i.height, i.width, i.channels},
                           Rounded(UniformValues(pixels, 0, 255.99, 1), DType::kU8), Arena::kInput);
  args.augment = pair.Input("augment", DType::kI32, {i.batch, 3}, i.augment, Arena::kInput);
  args.crop_height = i.crop_height, args.crop_width = i.crop_width, args.patch = i.patch;
  args.range_min = -1.0f, args.range_max = 0.75f;
  const int64_t rows = i.batch * (i.crop_height / i.patch) * (i.crop_width / i.patch);
  args.patches = pair.Output("patches", type, {rows, i.patch * i.patch * i.channels});
  EXPECT_THAT(pair.Run(args), IsOk());
  pair.ExpectSameBits(args.patches);
  return pair.variant();
}

TEST(ImagesToPatchesCudaTest, CropsFlipsAndRangesAreTheBitsOfTheCpu) {
  for (const DType type : kTypes) {
    // Patches of 4 x 4 and of 14 x 14, whose lines are no whole vectors; grids with a rest.
    EXPECT_EQ(ExpectPatchesOfTheCpu({3, 13, 11, 3, 10, 8, 4, {0, 0, 0, 3, 2, 1, 1, 3, 0}}, type),
              "vector");
    EXPECT_EQ(ExpectPatchesOfTheCpu({2, 60, 61, 3, 56, 59, 14, {3, 1, 1, 0, 2, 0}}, type),
              "vector");
    // More than one block for an image.
    EXPECT_EQ(ExpectPatchesOfTheCpu({2, 70, 70, 3, 64, 64, 16, {3, 1, 1, 6, 6, 0}}, type),
              "vector");
    EXPECT_THAT(ExpectPatchesOfTheCpu({2, 16, 16, 1, 15, 15, 5, {1, 1, 1, 0, 1, 0}}, type),
                StartsWith("simple: 225 elements"));
    EXPECT_THAT(ExpectPatchesOfTheCpu({1, 3, 3, 3, 3, 3, 1, {0, 0, 1}}, type),
                StartsWith("simple: 27 elements"));
  }
}

TEST(ImagesToPatchesCudaTest, CropsOutsideTheImageAreMovedInside) {
  (void)ExpectPatchesOfTheCpu({3, 13, 11, 3, 10, 8, 4, {-5, 100, 0, 99, -1, 7, 3, 3, 0}},
                              DType::kF32);
}

// ---- EmbedTokens --------------------------------------------------------------------------------

struct Embed {
  int64_t batch, patches, width;
  bool has_class;
  int64_t tokens() const { return patches + (has_class ? 1 : 0); }
};
const Embed kEmbeds[] = {{1, 7, 24, false}, {5, 7, 24, true}, {19, 3, 23, true},
                         {5, 4, 7, false},  {16, 1, 4, true}, {3, 196, 12, true}};

TEST(EmbedTokensCudaTest, ForwardIsTheBitsOfTheCpu) {
  for (const Embed& e : kEmbeds) {
    for (const DType type : kTypes) {
      SCOPED_TRACE(testing::Message() << e.batch << " x " << e.patches << " x " << e.width);
      OpPair pair(type);
      EmbedTokensArgs args;
      const int64_t rows = e.batch * e.patches;
      args.embedding = pair.Input("embedding", type, {rows, e.width},
                                  Rounded(NormalValues(rows * e.width, 1.0, 1), type));
      args.position = pair.Input("position", DType::kF32, {e.patches, e.width},
                                 NormalValues(e.patches * e.width, 1.0, 2));
      if (e.has_class) {
        args.class_token =
            pair.Input("class_token", DType::kF32, {e.width}, NormalValues(e.width, 1.0, 3));
      }
      args.batch = e.batch;
      args.tokens = pair.Output("tokens", DType::kF32, {e.batch * e.tokens(), e.width});
      ASSERT_THAT(pair.Run(args), IsOk());
      pair.ExpectSameBits(args.tokens);
      EXPECT_THAT(pair.variant(), StartsWith(e.width % 4 == 0 ? "vector" : "simple: width "));
      args.tokens = pair.Output("bf16", DType::kBf16, {e.batch * e.tokens(), e.width});
      ASSERT_THAT(pair.Run(args), IsOk());  // added in f32, rounded once
      pair.ExpectSameBits(args.tokens);
    }
  }
}

void ExpectEmbedGradNearCpu(const Embed& e, DType type, bool position, bool accumulate) {
  SCOPED_TRACE(testing::Message() << e.batch << " x " << e.patches << " x " << e.width
                                  << ", position " << position << ", " << DTypeName(type));
  OpPair pair(type);
  EmbedTokensGradArgs args;
  const int64_t elements = e.batch * e.tokens() * e.width;
  args.grad_tokens = pair.Input("grad_tokens", DType::kF32, {e.batch * e.tokens(), e.width},
                                NormalValues(elements, 1.0, 4));
  args.batch = e.batch;
  args.grad_embedding = pair.Output("grad_embedding", type, {e.batch * e.patches, e.width});
  const int64_t patch_elements = e.patches * e.width;
  if (position) {
    args.grad_position = pair.Input("grad_position", DType::kF32, {e.patches, e.width},
                                    Doubles(patch_elements, 2.0), Arena::kGradients);
  }
  if (e.has_class) {
    args.grad_class_token = pair.Input("grad_class_token", DType::kF32, {e.width},
                                       Doubles(e.width, 2.0), Arena::kGradients);
  }
  args.accumulate = accumulate;
  ASSERT_THAT(pair.Run(args), IsOk());
  pair.ExpectSameBits(args.grad_embedding);
  // The CPU sums in f64. CUDA sums at most `batch` terms below 6 in f32; both round once.
  const double absolute = static_cast<double>(e.batch * e.batch) * 6 * 0x1p-24;
  if (position) pair.ExpectNear(args.grad_position, 0x1p-23, absolute);
  if (e.has_class) pair.ExpectNear(args.grad_class_token, 0x1p-23, absolute);
}

TEST(EmbedTokensCudaTest, GradientsMatchTheCpuInEveryForm) {
  for (const Embed& e : kEmbeds) {
    for (const DType type : kTypes) {
      ExpectEmbedGradNearCpu(e, type, /*position=*/true, /*accumulate=*/true);
      ExpectEmbedGradNearCpu(e, type, /*position=*/true, /*accumulate=*/false);
      ExpectEmbedGradNearCpu(e, type, /*position=*/false, /*accumulate=*/false);
    }
  }
}

// More images than there are groups of them: a slot is a sum of several images.
TEST(EmbedTokensCudaTest, GroupsOfImagesAreSummed) {
  ExpectEmbedGradNearCpu({150, 2, 4, true}, DType::kBf16, true, true);
  ExpectEmbedGradNearCpu({131, 1, 3, true}, DType::kF32, true, true);
}

// ---- MeanPool, SelectToken ----------------------------------------------------------------------

struct Pool {
  int64_t batch, tokens, width;
};
const Pool kPools[] = {{3, 17, 64}, {1, 1, 8}, {2, 196, 12}, {5, 8, 300}, {2, 49, 7}, {9, 3, 1}};

template <typename Check>
void ForEachPool(Check check) {
  for (const Pool& p : kPools) {
    for (const DType x : kTypes) {
      for (const DType y : kTypes) {
        SCOPED_TRACE(testing::Message() << p.batch << " x " << p.tokens << " x " << p.width << ", "
                                        << DTypeName(x) << " to " << DTypeName(y));
        check(p, x, y);
      }
    }
  }
}

TEST(MeanPoolCudaTest, MatchesTheCpuForEveryShapeAndType) {
  ForEachPool([](const Pool& p, DType x, DType y) {
    OpPair pair(DType::kBf16);
    MeanPoolArgs args{.batch = p.batch, .tokens = p.tokens};
    args.x = pair.Input("x", x, {p.batch * p.tokens, p.width},
                        NormalValues(p.batch * p.tokens * p.width, 1.0, 1));
    args.y = pair.Output("y", y, {p.batch, p.width});
    ASSERT_THAT(pair.Run(args), IsOk());
    // Sums of terms below 6, each addition rounded to f32, on both sides; then scaled down.
    const double absolute = 2 * static_cast<double>(p.tokens) * 6 * 0x1p-24;
    pair.ExpectNear(args.y, 2 * HalfUlp(y) + 0x1p-22, absolute);
    EXPECT_THAT(
        pair.variant(),
        StartsWith(p.width % (x == DType::kBf16 ? 8 : 4) == 0 ? "vector" : "simple: width "));
  });
}

TEST(MeanPoolCudaTest, GradientIsTheBitsOfTheCpu) {
  ForEachPool([](const Pool& p, DType x, DType y) {
    OpPair pair(DType::kBf16);
    MeanPoolGradArgs args{.batch = p.batch, .tokens = p.tokens};
    args.grad_y =
        pair.Input("grad_y", y, {p.batch, p.width}, NormalValues(p.batch * p.width, 1.0, 1));
    args.grad_x = pair.Output("grad_x", x, {p.batch * p.tokens, p.width});
    ASSERT_THAT(pair.Run(args), IsOk());
    pair.ExpectSameBits(args.grad_x);
    EXPECT_THAT(pair.variant(), StartsWith(p.width % 4 == 0 ? "vector" : "simple: width "));
  });
}

TEST(SelectTokenCudaTest, ForwardAndGradientAreTheBitsOfTheCpu) {
  ForEachPool([](const Pool& p, DType x, DType y) {
    for (const int64_t token : {int64_t{0}, p.tokens - 1}) {
      OpPair pair(DType::kBf16);
      SelectTokenArgs forward{.batch = p.batch, .tokens = p.tokens, .token = token};
      forward.x = pair.Input("x", x, {p.batch * p.tokens, p.width},
                             NormalValues(p.batch * p.tokens * p.width, 1.0, 1));
      forward.y = pair.Output("y", y, {p.batch, p.width});
      SelectTokenGradArgs backward{.batch = p.batch, .tokens = p.tokens, .token = token};
      backward.grad_y = forward.y;
      backward.grad_x = pair.Output("grad_x", x, {p.batch * p.tokens, p.width});
      Program program;
      program.Add(forward);
      program.Add(backward);
      ASSERT_THAT(pair.RunProgram(program), IsOk());
      pair.ExpectSameBits(forward.y);
      pair.ExpectSameBits(backward.grad_x);
    }
  });
}

// ---- Tanh ---------------------------------------------------------------------------------------

TEST(TanhCudaTest, ForwardAndGradientMatchTheCpu) {
  for (const DType type : kTypes) {
    for (const int64_t width : {8, 256, 13, 1}) {
      const int64_t rows = 11, count = rows * width;
      OpPair pair(type);
      const Doubles values = NormalValues(count, 2.0, 1);
      TanhArgs forward{pair.Input("x", type, {rows, width}, values),
                       pair.Output("y", type, {rows, width})};
      TanhGradArgs backward{
          pair.Input("grad_y", type, {rows, width}, NormalValues(count, 1.0, 2)),
          pair.Input("known_y", type, {rows, width}, UniformValues(count, -1.0, 1.0, 3)),
          pair.Output("grad_x", type, {rows, width})};
      Program program;
      program.Add(forward);
      program.Add(backward);
      ASSERT_THAT(pair.RunProgram(program), IsOk());
      pair.ExpectNear(forward.y, 2 * HalfUlp(type) + 0x1p-20, 0);
      pair.ExpectSameBits(backward.grad_x);
    }
  }
}

}  // namespace
}  // namespace vitscale
