// Which algorithm a shape is multiplied with: what is measured is kept, and what is kept is used.

#include <string>

#include "kernels/base/files.h"
#include "kernels/cuda/blas_cache.h"
#include "tests/status_matchers.h"
#ifdef VITSCALE_CUDA_ON_CPU
#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda_on_cpu/cublaslt_standin.h"
#include "tests/cuda_on_cpu/device.h"
#endif

namespace vitscale::cuda {
namespace {

MatmulKey KeyOf(int64_t first) {
  MatmulKey key{};
  key[0] = first;
  key[15] = -1;
  return key;
}
cublasLtMatmulAlgo_t AlgorithmOf(uint64_t first) {
  cublasLtMatmulAlgo_t algorithm{};
  algorithm.data[0] = first;
  algorithm.data[7] = ~uint64_t{0};
  return algorithm;
}

class AlgorithmCacheTest : public testing::Test {
 protected:
  std::string Path() const { return directory_.path() + "/below/algorithms.txt"; }
  TemporaryDirectory directory_;
};

TEST_F(AlgorithmCacheTest, WhatIsSavedIsThereAfterLoad) {
  AlgorithmCache cache("card, driver 1");
  ASSERT_THAT(cache.SaveIfChanged(Path()), IsOk());  // nothing to save: no file
  EXPECT_THAT(PosixFileSystem().Stat(Path()), StatusIs(absl::StatusCode::kNotFound));
  cache.Add(KeyOf(1), AlgorithmOf(7));
  cache.Add(KeyOf(2), AlgorithmOf(8));
  ASSERT_THAT(cache.SaveIfChanged(Path()), IsOk());
  AlgorithmCache loaded("card, driver 1");
  ASSERT_THAT(loaded.Load(Path()), IsOk());
  EXPECT_EQ(loaded.size(), 2u);
  ASSERT_NE(loaded.Find(KeyOf(2)), nullptr);
  EXPECT_EQ(loaded.Find(KeyOf(2))->data[0], 8u);
  EXPECT_EQ(loaded.Find(KeyOf(2))->data[7], ~uint64_t{0});
  EXPECT_EQ(loaded.Find(KeyOf(3)), nullptr);
}

TEST_F(AlgorithmCacheTest, SavingKeepsWhatAnotherProcessWroteMeanwhile) {
  AlgorithmCache mine("card"), its("card"), both("card");
  mine.Add(KeyOf(1), AlgorithmOf(1));
  its.Add(KeyOf(2), AlgorithmOf(2));
  ASSERT_THAT(its.SaveIfChanged(Path()), IsOk());
  ASSERT_THAT(mine.SaveIfChanged(Path()), IsOk());
  ASSERT_THAT(both.Load(Path()), IsOk());
  EXPECT_EQ(both.size(), 2u);
}

TEST_F(AlgorithmCacheTest, FileOfAnotherMachineAddsNothing) {
  AlgorithmCache cache("card, driver 1"), other("card, driver 2");
  cache.Add(KeyOf(1), AlgorithmOf(1));
  ASSERT_THAT(cache.SaveIfChanged(Path()), IsOk());
  ASSERT_THAT(other.Load(Path()), IsOk());
  EXPECT_EQ(other.size(), 0u);
}

TEST_F(AlgorithmCacheTest, LinesThatMakeNoSenseAreLeftOut) {
  AlgorithmCache cache("card");
  cache.Add(KeyOf(1), AlgorithmOf(1));
  ASSERT_THAT(cache.SaveIfChanged(Path()), IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(std::string text, PosixFileSystem().ReadFile(Path(), 1 << 20));
  text += "1 2 3\n" + std::string(100, 'x') + "\n\n" + text.substr(text.find('\n') + 1, 30);
  ASSERT_THAT(WriteFileAtomically(PosixFileSystem(), Path(), text), IsOk());
  AlgorithmCache loaded("card");
  ASSERT_THAT(loaded.Load(Path()), IsOk());
  EXPECT_EQ(loaded.size(), 1u);
}

#ifdef VITSCALE_CUDA_ON_CPU
// A program of two equal products: measured once, written to the state directory.
TEST_F(AlgorithmCacheTest, ShapesWithSeveralAlgorithmsAreMeasuredOnceAndKept) {
  ASSERT_EQ(setenv("XDG_STATE_HOME", directory_.path().c_str(), 1), 0);
  cuda_on_cpu::OfferAlgorithms(3);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto backend, CreateCudaBackend({.device = "cuda:0"}));
  ArenaBytes bytes{};
  bytes[static_cast<int>(Arena::kParameters)] = 4096;
  bytes[static_cast<int>(Arena::kActivations)] = 4096;
  ASSERT_THAT(backend->Allocate(bytes), IsOk());
  LinearArgs args;
  args.weight = {{"w", Arena::kParameters, 0, DType::kF32, {16, 16}}};
  args.x = {"x", Arena::kActivations, 0, DType::kF32, {16, 16}};
  args.y = {"y", Arena::kActivations, 1024, DType::kF32, {16, 16}};
  Program program;
  program.Add(args);
  const auto allocations_of_prepare = [&] {
    const int64_t before = cuda_on_cpu::Counts().allocations;
    EXPECT_THAT(backend->Prepare(program), IsOk());
    return cuda_on_cpu::Counts().allocations - before;
  };
  const int64_t first = allocations_of_prepare(), again = allocations_of_prepare();
  EXPECT_EQ(first - again, 2);  // operands and the memory that flushes the cache
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto files,
                                PosixFileSystem().List(directory_.path() + "/vitscale/cublaslt"));
  EXPECT_EQ(files.size(), 1u);
  cuda_on_cpu::OfferAlgorithms(1);
  unsetenv("XDG_STATE_HOME");
}
#endif

}  // namespace
}  // namespace vitscale::cuda
