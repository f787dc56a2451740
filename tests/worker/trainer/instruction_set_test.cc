// vitscale-train with every instruction set this machine has, and as a machine without AVX-512
// would run it: an emulator that stops at the first instruction the processor model lacks.

#include <unistd.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/backend_factory.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/child_process.h"
#include "tests/worker/trainer/test_gang.h"

namespace vitscale {
namespace {

constexpr char kEmulator[] = "/usr/bin/qemu-x86_64";  // Debian: qemu-user
constexpr int kSteps = 4;

// Panels of 196 rows: oneDNN takes part (kernels/cpu/matmul.cc).
std::string Job(const std::string& precision) {
  return TinyJob({{"model",
                   "{custom: {patch: 4, width: 64, depth: 2, heads: 2, mlp_width: 128}, "
                   "image_size: 28, channels: 1, pool: map, classes: 10, loss: sigmoid}"},
                  {"data", "{train: {format: synthetic, synthetic_images: 64}}"},
                  {"schedule", absl::StrCat("{name: rsqrt, warmup: 1 steps, timescale: 1000 steps, "
                                            "total: ",
                                            kSteps, " steps}")},
                  {"batch", "{global: 16}"},
                  {"checkpoint", absl::StrCat("{dir: runs, every: ", kSteps, " steps}")},
                  {"precision", precision}});
}

std::vector<std::string> InstructionSets() {
  std::vector<std::string> sets;
  for (const char* name : {"avx2", "avx512", "avx512_bf16"}) {
    if (CreateBackend({.instruction_set = name}).ok()) sets.push_back(name);
  }
  return sets;
}

using Numbers = std::vector<double>;  // loss and gradient norm of every step

class InstructionSetTest : public ::testing::TestWithParam<const char*> {
 protected:
  // Runs `emulator` (may be empty) with the program and more flags.
  Numbers Train(const std::string& name, std::vector<std::string> command,
                const std::vector<std::string>& flags) {
    const std::string root = absl::StrCat(folder_.path(), "/", name);
    EXPECT_THAT(PosixFileSystem().MakeDirectory(root), IsOk());
    std::ofstream(root + "/job.yaml") << Job(GetParam());
    for (const std::string& word :
         {std::string(VITSCALE_TRAIN), root + "/job.yaml", "--checkpoint-root=" + root,
          "--data-root=" + root, "--steps-csv=" + root + "/steps.csv", std::string("--quiet"),
          std::string("--threads=1")}) {
      command.push_back(word);
    }
    command.insert(command.end(), flags.begin(), flags.end());
    EXPECT_EQ(ChildProcess(command, root + "/log").Wait(), 0) << ReadText(root + "/log");
    return NumbersOf(ReadText(root + "/steps.csv"));
  }
  Numbers TrainWith(const std::string& set) {
    return Train(set, {}, {absl::StrCat("--instruction-set=", set)});
  }

 private:
  // Written with 17 digits: equal numbers are equal bits.
  static Numbers NumbersOf(const std::string& csv) {
    Numbers numbers;
    for (const absl::string_view line : absl::StrSplit(csv, '\n', absl::SkipEmpty())) {
      const std::vector<absl::string_view> cells = absl::StrSplit(line, ',');
      double loss = 0, norm = 0;
      if (!absl::SimpleAtod(cells[2], &loss) || !absl::SimpleAtod(cells[3], &norm)) continue;
      numbers.push_back(loss);
      numbers.push_back(norm);
    }
    EXPECT_EQ(numbers.size(), 2u * kSteps) << csv;
    return numbers;
  }

  const TemporaryDirectory folder_;
};
INSTANTIATE_TEST_SUITE_P(Precisions, InstructionSetTest, ::testing::Values("f32", "bf16"),
                         [](const auto& info) { return std::string(info.param); });

// f32: sums in another order. A sum of n terms differs by at most n units of 2^-24; on the longest
// way through forward, backward and a weight gradient the sums have less than 4,000 terms together,
// and every step adds its own. bf16: what lies within such a difference of a tie is rounded the
// other way, by 2^-8: few elements, so that a sum over all moves by less than one of them.
double Bound(const std::string& precision, size_t step) {
  return precision == "f32" ? 4000 * 0x1p-24 * static_cast<double>(step + 1) : 0x1p-8;
}

TEST_P(InstructionSetTest, EverySetOfThisMachineTrainsAlike) {
  const std::vector<std::string> sets = InstructionSets();
  const Numbers lowest = TrainWith(sets.front());
  for (size_t i = 1; i < sets.size(); ++i) {
    const Numbers other = TrainWith(sets[i]);
    ASSERT_EQ(other.size(), lowest.size());
    for (size_t n = 0; n < other.size(); ++n) {
      EXPECT_NEAR(other[n], lowest[n], Bound(GetParam(), n / 2) * std::abs(lowest[n]))
          << sets[i] << ", step " << n / 2;
    }
  }
}

// A forced set binds oneDNN too: the very bits of a machine that has no other.
TEST_P(InstructionSetTest, ForcedToAvx2GivesTheBitsOfAMachineWithoutAvx512) {
  if (access(kEmulator, X_OK) != 0) {
    GTEST_SKIP() << "no " << kEmulator << " (package qemu-user) to stand for such a machine";
  }
  const Numbers without = Train("without", {kEmulator, "-cpu", "Haswell-noTSX"}, {});
  EXPECT_EQ(without, TrainWith("avx2"));
}

}  // namespace
}  // namespace vitscale
