// ImagesToPatches, EmbedTokens, MeanPool, SelectToken and Tanh with their backward passes.

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

class InputTest : public testing::TestWithParam<Variant> {
 protected:
  DType dtype() const { return GetParam().dtype; }
};
INSTANTIATE_TEST_SUITE_P(EveryVariant, InputTest, testing::ValuesIn(AllVariants()), VariantName);

// ---- ImagesToPatches --------------------------------------------------------------------------

struct Images {
  int64_t batch = 3, height = 13, width = 11, channels = 3, crop_height = 10, crop_width = 8,
          patch = 4;
  Doubles pixels = Rounded(UniformValues(3 * 13 * 11 * 3, 0, 255.99, 1), DType::kU8);
  Doubles augment = {0, 0, 0, 3, 2, 1, 1, 3, 0};
  int64_t rows() const { return batch * (crop_height / patch) * (crop_width / patch); }
  int64_t columns() const { return patch * patch * channels; }

  Doubles Patches(double low, double high) const {  // token by token, by index
    Doubles patches;
    for (int64_t row = 0; row < rows(); ++row) {
      const int64_t grid_width = crop_width / patch, per_image = grid_width * (crop_height / patch);
      const int64_t image = row / per_image, token = row % per_image;
      for (int64_t i = 0; i < columns(); ++i) {
        const int64_t py = i / (patch * channels), px = i / channels % patch, c = i % channels;
        const int64_t y = token / grid_width * patch + py;
        int64_t x = token % grid_width * patch + px;
        if (augment[3 * image + 2] != 0) x = crop_width - 1 - x;
        const int64_t top = augment[3 * image], left = augment[3 * image + 1];
        const double value = pixels[((image * height + top + y) * width + left + x) * channels + c];
        patches.push_back(low + value * (high - low) / 255);
      }
    }
    return patches;
  }
};

ImagesToPatchesArgs PatchArgs(OpBench& bench, const Images& i, DType dtype) {
  ImagesToPatchesArgs args;
  args.images = bench.Input("images", DType::kU8, {i.batch, i.height, i.width, i.channels},
                            i.pixels, Arena::kInput);
  args.augment = bench.Input("augment", DType::kI32, {i.batch, 3}, i.augment, Arena::kInput);
  args.crop_height = i.crop_height, args.crop_width = i.crop_width, args.patch = i.patch;
  args.patches = bench.Output("patches", dtype, {i.rows(), i.columns()});
  return args;
}

TEST_P(InputTest, PatchesAreCropsFlippedAndMappedToTheRange) {
  const Images images;
  OpBench bench(GetParam());
  ImagesToPatchesArgs args = PatchArgs(bench, images, dtype());
  args.range_min = -1, args.range_max = 1;
  ASSERT_THAT(bench.Run(args), IsOk());
  // Rounded to f32, and from there to the dtype: exactly.
  EXPECT_EQ(bench.Values(args.patches),
            Rounded(Rounded(images.Patches(-1, 1), DType::kF32), dtype()));
}

TEST_P(InputTest, CropsOutsideTheImageAreMovedInside) {
  Images images;
  images.augment = {-5, 100, 0, 99, -1, 0, 3, 3, 0};
  OpBench bench(GetParam());
  const ImagesToPatchesArgs args = PatchArgs(bench, images, dtype());
  ASSERT_THAT(bench.Run(args), IsOk());
  images.augment = {0, 3, 0, 3, 0, 0, 3, 3, 0};
  EXPECT_EQ(bench.Values(args.patches),
            Rounded(Rounded(images.Patches(-1, 1), DType::kF32), dtype()));
}

TEST_P(InputTest, PatchBitsDoNotDependOnThreads) {
  ExpectSameBitsForAnyThreads([&](int threads) {
    OpBench bench(GetParam(), threads);
    const ImagesToPatchesArgs args = PatchArgs(bench, Images(), dtype());
    EXPECT_THAT(bench.Run(args), IsOk());
    return bench.Bytes(args.patches);
  });
}

TEST(ImagesToPatchesArgsTest, WrongShapesAreRejectedByName) {
  OpBench bench({cpu::Isa::kAvx2, DType::kF32});
  const ImagesToPatchesArgs good = PatchArgs(bench, Images(), DType::kF32);
  const auto reject = [&](const ImagesToPatchesArgs& args, const std::string& message) {
    EXPECT_THAT(bench.Run(args), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  };
  ImagesToPatchesArgs args = good;
  args.crop_height = 14;
  reject(args, "op 0 ImagesToPatches: the crop is 14 x 8, want at most 13 x 11, the images");
  args = good;
  args.patch = 9;
  reject(args, "patch is 9, want at most the crop, 10 x 8");
  args = good;
  args.augment.shape = {3, 2};
  reject(args, "augment is [3, 2], want [3, 3]");
  args = good;
  args.patches.shape[1] = 47;
  reject(args, "patches is [12, 47], want [12, 48]");
  args = good;
  args.images.dtype = DType::kF32;
  reject(args, "images is f32, want u8");
}

// ---- EmbedTokens ------------------------------------------------------------------------------

struct Embed {
  int64_t batch = 5, patches = 7, width = 24;
  bool has_class = false;
  int64_t tokens() const { return patches + (has_class ? 1 : 0); }
};

TEST_P(InputTest, TokensAreEmbeddingPlusPositionBehindAnUnmovedClassToken) {
  for (const bool has_class : {false, true}) {
    Embed e;
    e.has_class = has_class;
    const Doubles embedding = Rounded(NormalValues(e.batch * e.patches * e.width, 1, 1), dtype());
    const Doubles position = Rounded(NormalValues(e.patches * e.width, 1, 2), DType::kF32);
    const Doubles class_token = Rounded(NormalValues(e.width, 1, 3), DType::kF32);
    OpBench bench(GetParam());
    EmbedTokensArgs args;
    args.embedding = bench.Input("embedding", dtype(), {e.batch * e.patches, e.width}, embedding);
    args.position = bench.Input("position", DType::kF32, {e.patches, e.width}, position);
    if (has_class) args.class_token = bench.Input("class", DType::kF32, {e.width}, class_token);
    args.batch = e.batch;
    args.tokens = bench.Output("tokens", DType::kF32, {e.batch * e.tokens(), e.width});
    ASSERT_THAT(bench.Run(args), IsOk());
    Doubles want;
    for (int64_t image = 0; image < e.batch; ++image) {
      if (has_class) want.insert(want.end(), class_token.begin(), class_token.end());
      for (int64_t i = 0; i < e.patches * e.width; ++i) {
        want.push_back(embedding[image * e.patches * e.width + i] + position[i]);
      }
    }
    EXPECT_EQ(bench.Values(args.tokens), Rounded(want, DType::kF32));
    args.tokens = bench.Output("bf16", DType::kBf16, {e.batch * e.tokens(), e.width});
    ASSERT_THAT(bench.Run(args), IsOk());  // added in f32, rounded once
    EXPECT_EQ(bench.Values(args.tokens), Rounded(Rounded(want, DType::kF32), DType::kBf16));
  }
}

struct EmbedGrad {
  OpBench bench;
  EmbedTokensGradArgs args;
  EmbedGrad(Variant variant, const Embed& e, const Doubles& grad_tokens, bool learned,
            bool accumulate, int threads = 1)
      : bench(variant, threads) {
    args.grad_tokens =
        bench.Input("grad_tokens", DType::kF32, {e.batch * e.tokens(), e.width}, grad_tokens);
    args.batch = e.batch;
    args.grad_embedding =
        bench.Output("grad_embedding", variant.dtype, {e.batch * e.patches, e.width});
    if (learned) {
      args.grad_position = bench.Input("grad_position", DType::kF32, {e.patches, e.width},
                                       Doubles(e.patches * e.width, 0.5), Arena::kGradients);
    }
    if (e.has_class) {
      args.grad_class_token = bench.Input("grad_class_token", DType::kF32, {e.width},
                                          Doubles(e.width, 0.25), Arena::kGradients);
    }
    args.accumulate = accumulate;
    EXPECT_THAT(bench.Run(args), IsOk());
  }
};

TEST_P(InputTest, EmbedGradCopiesToTheEmbeddingAndSumsOverTheBatch) {
  for (const bool has_class : {false, true}) {
    for (const bool learned : {false, true}) {
      for (const bool accumulate : {false, true}) {
        Embed e;
        e.has_class = has_class;
        const Doubles grad =
            Rounded(NormalValues(e.batch * e.tokens() * e.width, 1, 1), DType::kF32);
        EmbedGrad g(GetParam(), e, grad, learned, accumulate);
        Doubles embedding, position(e.patches * e.width, accumulate ? 0.5 : 0),
            token(e.width, accumulate ? 0.25 : 0);
        for (size_t i = 0; i < grad.size(); ++i) {
          const int64_t c = i % e.width, t = i / e.width % e.tokens() - (has_class ? 1 : 0);
          if (t < 0) {
            token[c] += grad[i];
          } else {
            embedding.push_back(grad[i]);
            position[t * e.width + c] += grad[i];
          }
        }
        EXPECT_EQ(g.bench.Values(g.args.grad_embedding), Rounded(embedding, dtype()));
        // 6 terms of order 1: at most 6 roundings of 2^-24 of sums below 16.
        if (learned)
          ExpectNear(g.bench.Values(g.args.grad_position), position, 0x1p-23, 6e-6, "position");
        if (has_class)
          ExpectNear(g.bench.Values(g.args.grad_class_token), token, 0x1p-23, 6e-6, "class");
      }
    }
  }
}

TEST_P(InputTest, EmbedGradBitsDoNotDependOnThreads) {
  Embed e;
  e.has_class = true;
  const Doubles grad = NormalValues(e.batch * e.tokens() * e.width, 1, 1);
  ExpectSameBitsForAnyThreads([&](int threads) {
    EmbedGrad g(GetParam(), e, grad, true, false, threads);
    return g.bench.Bytes(g.args.grad_position);
  });
}

// ---- pooling ----------------------------------------------------------------------------------

TEST_P(InputTest, MeanPoolAveragesTokensAndItsGradientSpreadsEvenly) {
  const int64_t batch = 5, tokens = 7, width = 37;
  for (const DType y_type : {dtype(), DType::kF32}) {
    const Doubles x = Rounded(NormalValues(batch * tokens * width, 1, 1), dtype());
    const Doubles grad_y = Rounded(NormalValues(batch * width, 1, 2), y_type);
    OpBench bench(GetParam());
    MeanPoolArgs args;
    args.x = bench.Input("x", dtype(), {batch * tokens, width}, x);
    args.batch = batch, args.tokens = tokens;
    args.y = bench.Output("y", y_type, {batch, width});
    MeanPoolGradArgs grad;
    grad.grad_y = bench.Input("grad_y", y_type, {batch, width}, grad_y);
    grad.batch = batch, grad.tokens = tokens;
    grad.grad_x = bench.Output("grad_x", dtype(), {batch * tokens, width});
    Program program;
    program.Add(args);
    program.Add(grad);
    ASSERT_THAT(bench.RunProgram(program), IsOk());
    Doubles want(batch * width), want_grad;
    for (int64_t i = 0; i < batch * tokens * width; ++i) {
      const int64_t at = i / (tokens * width) * width + i % width;
      want[at] += x[i] / tokens;
      want_grad.push_back(grad_y[at] / tokens);
    }
    // Sums of 7 values below 4: 9 roundings of 2^-24 each.
    ExpectNear(bench.Values(args.y), want, HalfUlp(y_type), 9 * 4 * 0x1p-24, "y");
    ExpectNear(bench.Values(grad.grad_x), want_grad, HalfUlp(dtype()) + 0x1p-22, 0, "grad_x");
  }
}

TEST_P(InputTest, SelectTokenTakesOneRowAndItsGradientIsZeroElsewhere) {
  const int64_t batch = 4, tokens = 6, width = 19;
  for (const int64_t token : {0, 4}) {
    const Doubles x = Rounded(NormalValues(batch * tokens * width, 1, 1), dtype());
    const Doubles grad_y = Rounded(NormalValues(batch * width, 1, 2), DType::kF32);
    OpBench bench(GetParam());
    SelectTokenArgs args;
    args.x = bench.Input("x", dtype(), {batch * tokens, width}, x);
    args.batch = batch, args.tokens = tokens, args.token = token;
    args.y = bench.Output("y", DType::kF32, {batch, width});
    SelectTokenGradArgs grad;
    grad.grad_y = bench.Input("grad_y", DType::kF32, {batch, width}, grad_y);
    grad.batch = batch, grad.tokens = tokens, grad.token = token;
    grad.grad_x = bench.Output("grad_x", dtype(), {batch * tokens, width});
    Program program;
    program.Add(args);
    program.Add(grad);
    ASSERT_THAT(bench.RunProgram(program), IsOk());
    Doubles want, want_grad;
    for (int64_t i = 0; i < batch * tokens * width; ++i) {
      const bool selected = i / width % tokens == token;
      if (selected) want.push_back(x[i]);
      want_grad.push_back(selected ? grad_y[i / (tokens * width) * width + i % width] : 0);
    }
    EXPECT_EQ(bench.Values(args.y), want);
    EXPECT_EQ(bench.Values(grad.grad_x), Rounded(want_grad, dtype()));
  }
}

TEST(PoolingArgsTest, WrongShapesAreRejectedByName) {
  OpBench bench({cpu::Isa::kAvx2, DType::kF32});
  SelectTokenArgs args;
  args.x = bench.Input("x", DType::kF32, {8, 4}, Doubles(32));
  args.batch = 2, args.tokens = 4, args.token = 4;
  args.y = bench.Output("y", DType::kF32, {2, 4});
  EXPECT_THAT(bench.Run(args), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("op 0 SelectToken: token is 4, want 0 to 3")));
  args.token = 3, args.tokens = 3;
  EXPECT_THAT(bench.Run(args), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("x is [8, 4], want [6, any]")));
}

TEST_P(InputTest, TanhAndItsGradientMatchTheDefinitionAndFiniteDifferences) {
  const int64_t rows = 150, width = 21;
  const Doubles x = Rounded(NormalValues(rows * width, 2, 1), dtype());
  const Doubles grad_y = Rounded(NormalValues(rows * width, 1, 2), dtype());
  OpBench bench(GetParam());
  TanhArgs args{bench.Input("x", dtype(), {rows, width}, x),
                bench.Output("y", dtype(), {rows, width})};
  Doubles y;
  for (double value : x) y.push_back(std::tanh(value));
  TanhGradArgs grad{bench.Input("grad_y", dtype(), {rows, width}, grad_y),
                    bench.Input("kept y", dtype(), {rows, width}, y),
                    bench.Output("grad_x", dtype(), {rows, width})};
  Program program;
  program.Add(args);
  program.Add(grad);
  ASSERT_THAT(bench.RunProgram(program), IsOk());
  ExpectNear(bench.Values(args.y), y, HalfUlp(dtype()) + 0x1p-21, 0, "y");
  Doubles want;
  for (size_t i = 0; i < x.size(); ++i) {
    constexpr double kStep = 1e-5;
    want.push_back(grad_y[i] * (std::tanh(x[i] + kStep) - std::tanh(x[i] - kStep)) / (2 * kStep));
  }
  // 1 - y^2 with a y that is rounded: off by 2 u y^2; times |grad_y| below 5.
  ExpectNear(bench.Values(grad.grad_x), want, 2 * HalfUlp(dtype()) + 1e-8,
             10 * HalfUlp(dtype()) + 1e-9, "grad_x");
}

}  // namespace
}  // namespace vitscale
