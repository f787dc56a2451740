// Reads the sources of kernels/cuda: what is outside of the dialect is found with file and line.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vitscale {
namespace {

using testing::IsEmpty;

constexpr char kDialect[] = "kernels/cuda/dialect/";

struct Rule {
  const char* pattern;
  std::vector<std::string> files;  // of the dialect, that may have it
  const char* instead;
};

const std::vector<Rule>& Rules() {
  static const auto* rules = new std::vector<Rule>{
      {"<<<", {}, "Launch"},
      {"\\bcudaLaunch\\w*|\\bcudaFuncSetAttribute\\b", {"launch.h"}, "Launch"},
      {"__shared__", {"shared.h"}, "SharedMemory"},
      {"__constant__|__managed__", {}, "an argument of the kernel"},
      {"__syncthreads\\w*|__syncwarp|__threadfence\\w*|\\bbar\\.sync",
       {"shared.h"},
       "BlockBarrier or WarpBarrier"},
      {"__shfl\\w*", {"warp.h"}, "Shuffle"},
      {"__ballot\\w*|__any\\w*|__all\\w*|__match\\w*|__reduce_\\w*|__activemask", {}, "warp.h"},
      {"\\basm\\b", {"mma.h", "async_copy.h", "fast_math.h"}, "MmaBf16, LoadMatrix, CopyAsync"},
      {"\\batomic[A-Z]\\w*|\\bcuda::atomic|<cuda/", {}, "a slot per block, summed in order"},
      {"cooperative_groups|\\bcub::|<cub/|\\bwmma\\b|\\bthrust::|<thrust/", {}, "the dialect"},
      {"__(exp|exp10|log|log2|log10|sin|cos|sincos|tan|pow)f\\b|__fdividef|__saturatef|"
       "__f(add|sub|mul|div|maf?|rcp|rsqrt|sqrt)_r\\w|\\brsqrt\\.approx|\\bex2\\.approx",
       {"fast_math.h"},
       "fast_math.h"},
      {"__ldg|__ldcs|__ldcg|__stcs|__stcg|__stwt", {"vec.h"}, "LoadVec, StoreVec"},
      {"\\bprintf\\b|\\bassert\\s*\\(|\\bthrow\\b|\\btry\\b", {}, "absl::Status on the host"},
  };
  return *rules;
}

struct Line {
  std::string file;  // from the root of the tree
  int number = 0;
  std::string code;  // without its comment
};

// Comments begin with // everywhere in the tree; strings with // in them lose their end.
std::string WithoutComment(const std::string& line) { return line.substr(0, line.find("//")); }

std::vector<Line> Lines() {
  const std::filesystem::path root = VITSCALE_SOURCE_DIR;
  std::vector<Line> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root / "kernels/cuda")) {
    const std::string extension = entry.path().extension();
    if (extension != ".h" && extension != ".cc" && extension != ".cu") continue;
    std::ifstream stream(entry.path());
    const std::string file = std::filesystem::relative(entry.path(), root).generic_string();
    std::string text;
    for (int number = 1; std::getline(stream, text); ++number) {
      lines.push_back({file, number, WithoutComment(text)});
    }
  }
  return lines;
}

bool Allows(const Rule& rule, const std::string& file) {
  return std::any_of(rule.files.begin(), rule.files.end(),
                     [&](const std::string& name) { return file == kDialect + name; });
}

std::vector<std::string> Breaches(const std::vector<Line>& lines) {
  std::vector<std::string> breaches;
  for (const Rule& rule : Rules()) {
    const std::regex pattern(rule.pattern);
    for (const Line& line : lines) {
      if (!Allows(rule, line.file) && std::regex_search(line.code, pattern)) {
        breaches.push_back(absl::StrCat("\n", line.file, ":", line.number, ": ", line.code,
                                        "\n  wanted: ", rule.instead));
      }
    }
  }
  return breaches;
}

TEST(CudaDialectTest, KernelsUseNothingElse) {
  const std::vector<Line> lines = Lines();
  EXPECT_GT(lines.size(), 1000u);
  EXPECT_THAT(Breaches(lines), IsEmpty());
}

// What runs here must be what runs on a device.
TEST(CudaDialectTest, OnlyTheDialectKnowsWhereItRuns) {
  std::vector<std::string> breaches;
  for (const Line& line : Lines()) {
    const bool asks = absl::StrContains(line.code, "VITSCALE_CUDA_ON_CPU") ||
                      absl::StrContains(line.code, "__CUDACC__") ||
                      absl::StrContains(line.code, "__CUDA_ARCH__") ||
                      absl::StrContains(line.code, "host_twin");
    if (asks && !absl::StartsWith(line.file, kDialect)) {
      breaches.push_back(absl::StrCat("\n", line.file, ":", line.number, ": ", line.code));
    }
  }
  EXPECT_THAT(breaches, IsEmpty());
}

TEST(CudaDialectTest, EveryRuleFindsABreach) {
  for (const char* code : {"Kernel<<<1, 2>>>(x);", "cudaLaunchKernel(f, g, b, a, 0, s);",
                           "__shared__ float x[4];", "__constant__ float k;", "__syncthreads();",
                           "__shfl_xor_sync(m, v, 1)", "__ballot_sync(m, p)", "asm volatile(\"\");",
                           "atomicAdd(p, 1.0f);", "cub::BlockReduce<float, 32>", "__expf(x)",
                           "__fmaf_rn(a, b, c)", "__ldg(p)", "printf(\"\");"}) {
    EXPECT_EQ(Breaches({{"kernels/cuda/some.cu", 1, code}}).size(), 1u) << code;
  }
  EXPECT_THAT(Breaches({{"kernels/cuda/dialect/shared.h", 1, "__syncthreads();"}}), IsEmpty());
}

}  // namespace
}  // namespace vitscale
