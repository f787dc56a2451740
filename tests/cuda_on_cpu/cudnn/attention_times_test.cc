#include "kernels/cuda/cudnn/attention_times.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/base/files.h"
#include "kernels/cuda/machine_file.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

constexpr AttentionSize kSmall{8, 196, 3, 64}, kLarge{1024, 196, 12, 64};

std::string FirstLine(const std::string& text) {
  return {text.begin(), std::find(text.begin(), text.end(), '\n')};
}

class AttentionTimesTest : public testing::Test {
 protected:
  std::string Path() const { return directory_.path() + "/below/times.txt"; }
  TemporaryDirectory directory_;
};

TEST(AttentionSecondsTest, CudnnIsTakenOnlyWhereItTakesLess) {
  EXPECT_TRUE((AttentionSeconds{2e-4, 1e-4}.CudnnIsFaster()));
  EXPECT_FALSE((AttentionSeconds{1e-4, 2e-4}.CudnnIsFaster()));
  EXPECT_FALSE((AttentionSeconds{1e-4, 1e-4}.CudnnIsFaster()));
}

TEST_F(AttentionTimesTest, WhatIsSavedIsThereAfterLoad) {
  AttentionTimes times("card, driver 1");
  times.Add(kSmall, {2.5e-5, 1.25e-5});
  times.Add(kLarge, {3e-3, 4e-3});
  ASSERT_THAT(times.Save(Path()), IsOk());
  AttentionTimes loaded("card, driver 1");
  ASSERT_THAT(loaded.Load(Path()), IsOk());
  ASSERT_TRUE(loaded.Find(kSmall).has_value());
  EXPECT_DOUBLE_EQ(loaded.Find(kSmall)->own, 2.5e-5);
  EXPECT_DOUBLE_EQ(loaded.Find(kSmall)->cudnn, 1.25e-5);
  EXPECT_TRUE(loaded.Find(kLarge).has_value());
  EXPECT_FALSE(loaded.Find({8, 197, 3, 64}).has_value());
}

TEST_F(AttentionTimesTest, SavingKeepsWhatAnotherProcessWroteMeanwhile) {
  AttentionTimes mine("card"), its("card"), both("card");
  mine.Add(kSmall, {1e-4, 2e-4});
  its.Add(kLarge, {1e-4, 2e-4});
  ASSERT_THAT(its.Save(Path()), IsOk());
  ASSERT_THAT(mine.Save(Path()), IsOk());
  ASSERT_THAT(both.Load(Path()), IsOk());
  EXPECT_TRUE(both.Find(kSmall).has_value() && both.Find(kLarge).has_value());
}

TEST_F(AttentionTimesTest, FileOfAnotherMachineAddsNothing) {
  AttentionTimes times("card, cuDNN 9.19.0"), other("card, cuDNN 9.20.0");
  times.Add(kSmall, {1e-4, 2e-4});
  ASSERT_THAT(times.Save(Path()), IsOk());
  ASSERT_THAT(other.Load(Path()), IsOk());
  EXPECT_FALSE(other.Find(kSmall).has_value());
  EXPECT_NE(times.DefaultPath(), other.DefaultPath());
}

TEST_F(AttentionTimesTest, LinesThatMakeNoSenseAreLeftOut) {
  AttentionTimes times("card");
  times.Add(kSmall, {1e-4, 2e-4});
  ASSERT_THAT(times.Save(Path()), IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(std::string text, PosixFileSystem().ReadFile(Path(), 1 << 20));
  // Their checksums are right.
  const auto with_nonsense = [](std::vector<std::string> lines) {
    for (const char* line : {"1 2 3", "1 2 3 4 nan 1", "1 2 3 5 -1 1", "1 2 3 six 1 1", "x", ""}) {
      lines.emplace_back(line);
    }
    return lines;
  };
  ASSERT_THAT(UpdateMachineFile(Path(), FirstLine(text), with_nonsense), IsOk());
  AttentionTimes loaded("card");
  ASSERT_THAT(loaded.Load(Path()), IsOk());
  EXPECT_TRUE(loaded.Find(kSmall).has_value());
  EXPECT_FALSE(loaded.Find({1, 2, 3, 4}).has_value());
  EXPECT_FALSE(loaded.Find({1, 2, 3, 5}).has_value());
}

}  // namespace
}  // namespace vitscale::cuda
