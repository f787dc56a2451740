// Which algorithm a shape is multiplied with: what is measured is kept, and what is kept is used.

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/files.h"
#include "kernels/cuda/blas_cache.h"
#include "kernels/cuda/machine_file.h"
#include "tests/status_matchers.h"
#ifdef VITSCALE_CUDA_ON_CPU
#include "kernels/cuda/blas_matmul.h"
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

std::string FirstLine(const std::string& text) {
  return {text.begin(), std::find(text.begin(), text.end(), '\n')};
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
  ASSERT_TRUE(loaded.Find(KeyOf(2)).has_value());
  EXPECT_EQ(loaded.Find(KeyOf(2))->data[0], 8u);
  EXPECT_EQ(loaded.Find(KeyOf(2))->data[7], ~uint64_t{0});
  EXPECT_FALSE(loaded.Find(KeyOf(3)).has_value());
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
  const auto with_nonsense = [](std::vector<std::string> lines) {  // their checksums are right
    const std::string whole = lines.at(0);
    for (const std::string& line : {std::string("1 2 3"), std::string(100, 'x'), std::string(),
                                    whole.substr(0, 30), whole + " 0", "x" + whole}) {
      lines.push_back(line);
    }
    return lines;
  };
  ASSERT_THAT(UpdateMachineFile(Path(), FirstLine(text), with_nonsense), IsOk());
  AlgorithmCache loaded("card");
  ASSERT_THAT(loaded.Load(Path()), IsOk());
  EXPECT_EQ(loaded.size(), 1u);
}

// A word that lost its end would be another algorithm.
TEST_F(AlgorithmCacheTest, FileThatWasCutShortKeepsOnlyWholeLines) {
  AlgorithmCache cache("card");
  cache.Add(KeyOf(1), AlgorithmOf(0x1234));
  cache.Add(KeyOf(2), AlgorithmOf(0x5678));
  ASSERT_THAT(cache.SaveIfChanged(Path()), IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::string text,
                                PosixFileSystem().ReadFile(Path(), 1 << 20));
  for (size_t cut = 2; cut < 30; ++cut) {  // 1 is the last line break
    ASSERT_THAT(WriteFileAtomically(PosixFileSystem(), Path(), text.substr(0, text.size() - cut)),
                IsOk());
    AlgorithmCache loaded("card");
    ASSERT_THAT(loaded.Load(Path()), IsOk());
    EXPECT_EQ(loaded.size(), 1u) << "without the last " << cut;
  }
}

TEST_F(AlgorithmCacheTest, ManyThatSaveAtOnceLoseNothingAndNobodyReadsHalfAFile) {
  constexpr int kWriters = 4, kEach = 25;
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      AlgorithmCache mine("card");
      for (int i = 0; i < kEach; ++i) {
        mine.Add(KeyOf(writer * kEach + i), AlgorithmOf(1));
        EXPECT_THAT(mine.SaveIfChanged(Path()), IsOk());
        AlgorithmCache reader("card");
        EXPECT_THAT(reader.Load(Path()), IsOk());
        EXPECT_GE(reader.size(), static_cast<size_t>(i + 1));
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  AlgorithmCache all("card");
  ASSERT_THAT(all.Load(Path()), IsOk());
  EXPECT_EQ(all.size(), static_cast<size_t>(kWriters * kEach));
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
  EXPECT_EQ(files.size(), 2u);  // and its lock
  cuda_on_cpu::OfferAlgorithms(1);
  unsetenv("XDG_STATE_HOME");
}

std::shared_ptr<BoundMatmul> Bound(int64_t columns, const void* weight) {
  BlasMatmul m;
  m.rows = m.inner = 16;
  m.columns = columns;
  m.a_stride = 16;
  m.b_stride = m.d_stride = columns;
  m.b = weight;
  return BoundMatmul::Create(m).value();
}

TEST(ChoiceTest, NamesShapeAndAlgorithmAndNotTheOperandsPlaces) {
  alignas(64) char here[128];
  const auto bound = Bound(32, here);
  EXPECT_EQ(ChoiceOf(*bound), ChoiceOf(*Bound(32, here + 64)));
  EXPECT_NE(ChoiceOf(*bound), ChoiceOf(*Bound(64, here)));
  const uint64_t before = ChoiceOf(*bound);
  bound->algorithm = AlgorithmOf(1);
  EXPECT_NE(ChoiceOf(*bound), before);
}
#endif

}  // namespace
}  // namespace vitscale::cuda
