// The CPU backend as a whole: arenas, programs, panel groups, markers, packed weights, forced
// instruction sets.

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend_factory.h"
#include "kernels/cpu/executor.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const Variant kPlain = {cpu::Isa::kAvx2, DType::kF32};

std::unique_ptr<Backend> Create(BackendOptions options = {}) {
  if (options.threads == 0) options.threads = 2;
  auto backend = CreateBackend(options);
  EXPECT_THAT(backend, IsOk());
  return *std::move(backend);
}

TEST(BackendFactoryTest, UnknownDevicesAndInstructionSetsAreRefused) {
  EXPECT_THAT(CreateBackend({.device = "tpu"}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("device is 'tpu', want cpu or cuda:<index>")));
  EXPECT_THAT(CreateBackend({.device = "cuda:0"}), StatusIs(absl::StatusCode::kUnimplemented));
  EXPECT_THAT(CreateBackend({.instruction_set = "sse9"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("instruction set is 'sse9'")));
  EXPECT_THAT(CreateBackend({.threads = -1}), StatusIs(absl::StatusCode::kInvalidArgument,
                                                       HasSubstr("threads is -1, want 0 to 1024")));
}

TEST(BackendFactoryTest, InfoSaysWhatWasForced) {
  for (cpu::Isa isa : AllInstructionSets()) {
    const BackendInfo info = Create({.threads = 3, .instruction_set = cpu::IsaName(isa)})->info();
    EXPECT_EQ(info.instruction_set, cpu::IsaName(isa));
    EXPECT_EQ(info.bf16_matmul, isa == cpu::Isa::kAvx512Bf16);
    EXPECT_EQ(info.threads, 3);
    EXPECT_THAT(info.libraries, HasSubstr("oneDNN "));
  }
  EXPECT_EQ(DescribeCpu({}).instruction_set, cpu::IsaName(cpu::BestIsa()));
}

TEST(BackendTest, ArenasAreZeroFilledAndAllocatedOnce) {
  const auto backend = Create();
  ArenaBytes bytes{};
  bytes[static_cast<int>(Arena::kParameters)] = 4096;
  ASSERT_THAT(backend->Allocate(bytes), IsOk());
  const absl::Span<std::byte> memory = backend->HostBytes(Arena::kParameters);
  ASSERT_EQ(memory.size(), 4096u);
  for (std::byte b : memory) EXPECT_EQ(b, std::byte{0});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % kTensorAlignment, 0u);
  EXPECT_TRUE(backend->HostBytes(Arena::kMomentum).empty());
  EXPECT_THAT(backend->Allocate(bytes), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(BackendTest, MemoryThatCannotBeHadIsAnErrorThatNamesTheArena) {
  const auto backend = Create();
  ArenaBytes bytes{};
  bytes[static_cast<int>(Arena::kActivations)] = int64_t{1} << 60;
  EXPECT_THAT(backend->Allocate(bytes),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("activations")));
}

TEST(BackendTest, ReadAndWriteTakeWholeTensorsInsideTheirArena) {
  const auto backend = Create();
  ArenaBytes bytes{};
  bytes[static_cast<int>(Arena::kInput)] = 128;
  ASSERT_THAT(backend->Allocate(bytes), IsOk());
  const TensorView view{"labels", Arena::kInput, 64, DType::kI32, {4}};
  const std::vector<std::byte> in(16, std::byte{7});
  std::vector<std::byte> out(16);
  ASSERT_THAT(backend->Write(view, in), IsOk());
  ASSERT_THAT(backend->Read(view, absl::MakeSpan(out)), IsOk());
  EXPECT_EQ(in, out);
  out.resize(15);
  EXPECT_THAT(backend->Read(view, absl::MakeSpan(out)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("labels has 16 bytes, the host gave 15")));
  TensorView outside = view;
  outside.offset = 128;
  EXPECT_THAT(backend->Write(outside, in),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("outside")));
}

// ---- panel groups -----------------------------------------------------------------------------

// patches -> Linear -> EmbedTokens -> LayerNorm -> Linear + GELU -> LayerNormGrad: row-wise and
// image-wise ops, with and without later phases, of more panels than threads.
struct Chain {
  static constexpr int64_t kBatch = 37, kTokens = 49, kWidth = 64, kHidden = 96;
  OpBench bench;
  std::vector<TensorView> results;
  Program program;
  Chain(Variant variant, int threads, bool grouped) : bench(variant, threads) {
    const int64_t rows = kBatch * kTokens;
    const DType dtype = variant.dtype;
    LinearArgs embed;
    embed.x = bench.Input("x", dtype, {rows, 16}, NormalValues(rows * 16, 1, 1));
    embed.weight = {bench.Input("w0", DType::kF32, {16, kWidth}, NormalValues(16 * kWidth, 0.25, 2),
                                Arena::kParameters)};
    embed.y = bench.Output("embedding", dtype, {rows, kWidth});
    EmbedTokensArgs tokens;
    tokens.embedding = embed.y;
    tokens.position = bench.Input("position", DType::kF32, {kTokens, kWidth},
                                  NormalValues(kTokens * kWidth, 1, 3), Arena::kParameters);
    tokens.batch = kBatch;
    tokens.tokens = bench.Output("tokens", DType::kF32, {rows, kWidth});
    LayerNormArgs norm;
    norm.x = tokens.tokens;
    norm.gamma = bench.Input("gamma", DType::kF32, {kWidth}, UniformValues(kWidth, 0.5, 1.5, 4),
                             Arena::kParameters);
    norm.beta =
        bench.Input("beta", DType::kF32, {kWidth}, NormalValues(kWidth, 1, 5), Arena::kParameters);
    norm.y = bench.Output("normed", dtype, {rows, kWidth});
    norm.mean = bench.Output("mean", DType::kF32, {rows});
    norm.inv_std = bench.Output("inv_std", DType::kF32, {rows});
    LinearArgs hidden;
    hidden.x = norm.y;
    hidden.weight = {bench.Input("w1", DType::kF32, {kWidth, kHidden},
                                 NormalValues(kWidth * kHidden, 0.2, 6), Arena::kParameters)};
    hidden.epilogue = LinearEpilogue::kGelu;
    hidden.pre_activation = bench.Output("pre", dtype, {rows, kHidden});
    hidden.y = bench.Output("hidden", dtype, {rows, kHidden});
    LinearGradInputArgs back;
    back.grad_y = hidden.y;
    back.weight = hidden.weight;
    back.grad_x = bench.Output("grad_normed", dtype, {rows, kWidth});
    LayerNormGradArgs grad;
    grad.grad_y = back.grad_x;
    grad.x = norm.x, grad.mean = norm.mean, grad.inv_std = norm.inv_std, grad.gamma = norm.gamma;
    grad.grad_x = bench.Output("grad_tokens", DType::kF32, {rows, kWidth});
    grad.grad_gamma = bench.Output("grad_gamma", DType::kF32, {kWidth}, Arena::kGradients);
    grad.grad_beta = bench.Output("grad_beta", DType::kF32, {kWidth}, Arena::kGradients);
    EmbedTokensGradArgs embed_grad;
    embed_grad.grad_tokens = grad.grad_x;
    embed_grad.batch = kBatch;
    embed_grad.grad_embedding = bench.Output("grad_embedding", dtype, {rows, kWidth});
    embed_grad.grad_position =
        bench.Output("grad_position", DType::kF32, {kTokens, kWidth}, Arena::kGradients);
    if (grouped) program.Add(PanelBeginArgs{kBatch});
    program.Add(embed);
    program.Add(tokens);
    program.Add(norm);
    program.Add(hidden);
    program.Add(back);
    program.Add(grad);
    program.Add(embed_grad);
    if (grouped) program.Add(PanelEndArgs{});
    results = {hidden.y,
               grad.grad_x,
               grad.grad_gamma,
               grad.grad_beta,
               embed_grad.grad_embedding,
               embed_grad.grad_position};
    EXPECT_THAT(bench.RunProgram(program), IsOk());
  }
  std::vector<std::byte> Bytes() const {
    std::vector<std::byte> all;
    for (const TensorView& view : results) {
      const std::vector<std::byte> bytes = bench.Bytes(view);
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }
};

class PanelGroupTest : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(EveryVariant, PanelGroupTest, testing::ValuesIn(AllVariants()),
                         VariantName);

TEST(PanelItemsTest, PanelsAreAbout392RowsOfWholeImagesAndAtLeastFourWherePossible) {
  EXPECT_EQ(cpu::PanelItems(128, 49), 8);
  EXPECT_EQ(cpu::PanelItems(32, 196), 2);
  EXPECT_EQ(cpu::PanelItems(16, 49), 4);   // four panels
  EXPECT_EQ(cpu::PanelItems(128, 1), 32);  // four panels
  EXPECT_EQ(cpu::PanelItems(8, 1369), 1);  // one image is more than 392 rows
  EXPECT_EQ(cpu::PanelItems(1, 49), 1);
}

TEST_P(PanelGroupTest, BitsDoNotDependOnThreads) {
  ExpectSameBitsForAnyThreads(
      [&](int threads) { return Chain(GetParam(), threads, true).Bytes(); });
}

// Tile matmuls and row ops give the same bits whether rows come in panels or all at once; sums over
// images are cut differently (an image per share, or a tile of rows) and agree within their
// rounding.
TEST_P(PanelGroupTest, AGroupGivesWhatItsOpsGiveOneByOne) {
  const Chain grouped(GetParam(), 2, true), single(GetParam(), 1, false);
  for (size_t i = 0; i < grouped.results.size(); ++i) {
    const TensorView& view = grouped.results[i];
    if (view.arena == Arena::kActivations) {
      EXPECT_EQ(grouped.bench.Bytes(view), single.bench.Bytes(view)) << view.name;
    } else {
      ExpectNear(grouped.bench.Values(view), single.bench.Values(view), 1e-4, 1e-3, view.name);
    }
  }
}

// ---- markers ----------------------------------------------------------------------------------

class Recorder : public MarkerSink {
 public:
  void OnGradientsReady(int bucket) override { seen.push_back(absl::StrCat("bucket ", bucket)); }
  void OnPhase(const std::string& name) override { seen.push_back(name); }
  std::vector<std::string> seen;
};

TEST(MarkerTest, AreToldInProgramOrderWithNothingLeftToDoBeforeThem) {
  OpBench bench(kPlain, 3);
  Program program;
  program.Add(PhaseArgs{"forward"});
  program.Add(FillArgs{bench.Output("y", DType::kF32, {1000}), 2.0});
  program.Add(GradientsReadyArgs{1});
  program.Add(PhaseArgs{"backward"});
  program.Add(GradientsReadyArgs{0});
  Recorder recorder;
  ASSERT_THAT(bench.RunProgram(program, {}, &recorder), IsOk());
  EXPECT_THAT(recorder.seen, ElementsAre("forward", "bucket 1", "backward", "bucket 0"));
}

// ---- packed weights ---------------------------------------------------------------------------

TEST(PackedWeightsTest, AreCopiesThatOnlyPrepareWeightsRenews) {
  constexpr int64_t width = 64;
  for (const int64_t rows : {1, 1200}) {  // tiles and oneDNN
    const auto backend = Create();
    const int64_t bytes_of_w = width * width * 4;
    ArenaBytes bytes{};
    bytes[static_cast<int>(Arena::kParameters)] = bytes_of_w;
    bytes[static_cast<int>(Arena::kActivations)] = 2 * rows * width * 4;
    ASSERT_THAT(backend->Allocate(bytes), IsOk());
    LinearArgs linear;
    linear.x = {"x", Arena::kActivations, 0, DType::kF32, {rows, width}};
    linear.weight = {{"w", Arena::kParameters, 0, DType::kF32, {width, width}}};
    linear.y = {"y", Arena::kActivations, rows * width * 4, DType::kF32, {rows, width}};
    Program use, renew;
    use.Add(linear);
    renew.Add(PrepareWeightsArgs{{linear.weight}});
    auto prepared_renew = backend->Prepare(renew);  // prepared before there is any copy
    auto prepared_use = backend->Prepare(use);
    ASSERT_THAT(prepared_renew, IsOk());
    ASSERT_THAT(prepared_use, IsOk());
    auto* w = reinterpret_cast<float*>(backend->HostBytes(Arena::kParameters).data());
    auto* x = reinterpret_cast<float*>(backend->HostBytes(Arena::kActivations).data());
    std::fill_n(w, width * width, 1.0f);
    std::fill_n(x, rows * width, 1.0f);
    const auto y = [&] { return x[rows * width]; };
    ASSERT_THAT(backend->Run(**prepared_use, {}, nullptr), IsOk());
    EXPECT_EQ(y(), width);  // a copy is made before its first use
    std::fill_n(w, width * width, 2.0f);
    ASSERT_THAT(backend->Run(**prepared_use, {}, nullptr), IsOk());
    EXPECT_EQ(y(), width);
    ASSERT_THAT(backend->Run(**prepared_renew, {}, nullptr), IsOk());
    ASSERT_THAT(backend->Run(**prepared_use, {}, nullptr), IsOk());
    EXPECT_EQ(y(), 2 * width);
  }
}

// A group that reads two weights, then one outside that reads a padded one: each finds its own in
// the buffer, whatever lay there before.
TEST(PackedWeightsTest, PackedPerUseGivesTheSameBitsInLessMemory) {
  constexpr int64_t batch = 4, tokens = 160, rows = batch * tokens, width = 64, odd = 37;
  for (const bool bf16 : {false, true}) {
    const DType dtype = bf16 ? DType::kBf16 : DType::kF32;
    std::vector<std::vector<std::byte>> results;
    std::vector<int64_t> bytes_used;
    for (const bool per_use : {false, true}) {
      const auto backend = Create({.threads = 2, .bf16 = bf16, .packed_per_use = per_use});
      ArenaBytes bytes{};
      bytes[static_cast<int>(Arena::kParameters)] = (2 * width * width + width * odd) * 4;
      bytes[static_cast<int>(Arena::kActivations)] = 4 * rows * width * 4;
      ASSERT_THAT(backend->Allocate(bytes), IsOk());
      const auto weight = [&](int64_t at, int64_t out) {
        return WeightParts{{"w", Arena::kParameters, at * 4, DType::kF32, {width, out}}};
      };
      const auto activation = [&](int64_t i, int64_t columns) {
        return TensorView{"a", Arena::kActivations, i * rows * width * 4, dtype, {rows, columns}};
      };
      Program program;
      const auto linear = [&](int64_t from, int64_t to, int64_t at, int64_t out) {
        LinearArgs args;
        args.x = activation(from, width);
        args.weight = weight(at, out);
        args.y = activation(to, out);
        program.Add(args);
      };
      program.Add(PanelBeginArgs{batch});
      linear(0, 1, 0, width);
      linear(1, 2, width * width, width);
      program.Add(PanelEndArgs{});
      linear(2, 3, 2 * width * width, odd);
      const auto parameters = backend->HostBytes(Arena::kParameters);
      const auto activations = backend->HostBytes(Arena::kActivations);
      const Doubles w = NormalValues(static_cast<int64_t>(parameters.size()) / 4, 0.1, 1);
      auto* to = reinterpret_cast<float*>(parameters.data());
      for (size_t i = 0; i < w.size(); ++i) to[i] = static_cast<float>(w[i]);
      std::fill_n(activations.data(), rows * width * DTypeBytes(dtype), std::byte{0x3c});
      auto prepared = backend->Prepare(program);
      ASSERT_THAT(prepared, IsOk());
      for (int run = 0; run < 2; ++run) ASSERT_THAT(backend->Run(**prepared, {}, nullptr), IsOk());
      results.emplace_back(activations.begin(), activations.end());
      bytes_used.push_back(backend->memory().compute_weights);
    }
    EXPECT_EQ(results[0], results[1]) << bf16;
    EXPECT_LT(bytes_used[1], bytes_used[0]);
  }
}

}  // namespace
}  // namespace vitscale
