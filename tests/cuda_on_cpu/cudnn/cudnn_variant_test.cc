// Which attention runs, and what variants() says about it, where cuDNN cannot be had.

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/log.h"
#include "kernels/cuda/cudnn/cudnn_attention.h"
#include "tests/cuda_on_cpu/self_attention_forward.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr AttentionProblem kProblem{2, 20, 2, 32};

// What is chosen under that setting; its results are compared with the CPU's.
std::string VariantUnder(const std::string& setting, const AttentionProblem& problem = kProblem,
                         DType dtype = DType::kBf16) {
  setenv("VITSCALE_CUDNN", setting.c_str(), 1);
  SelfAttentionForward f(problem, dtype, 1.5);
  EXPECT_THAT(f.pair.Run(f.args), IsOk());
  f.ExpectNearCpu();
  setenv("VITSCALE_CUDNN", "off", 1);
  return f.pair.variant();
}

// The file of a library of this process that is not cuDNN.
std::string FileOfLibm() {
  void* libm = dlopen("libm.so.6", RTLD_NOW);
  link_map* map = nullptr;
  return dlinfo(libm, RTLD_DI_LINKMAP, &map) == 0 ? map->l_name : "";
}

TEST(CudnnVariantTest, WithoutTheLibraryOurOwnRunsAndSaysWhy) {
  EXPECT_THAT(VariantUnder("/nowhere/libcudnn.so.9"),
              AllOf(StartsWith("mma, not cuDNN: cuDNN cannot be opened: "),
                    HasSubstr("/nowhere/libcudnn.so.9")));
  EXPECT_THAT(VariantUnder("/nowhere/libcudnn.so.9", {1, 20, 1, 40}),
              StartsWith("mma, head dim 40 padded to 48, not cuDNN: cuDNN cannot be opened: "));
}

TEST(CudnnVariantTest, ThatIsLoggedOnceHoweverManyOpsThereAre) {
  std::vector<std::string> lines;
  SetLogSinkForTests([&](const std::string& line) { lines.push_back(line); });
  (void)VariantUnder("/nowhere/else/libcudnn.so.9");
  (void)VariantUnder("/nowhere/else/libcudnn.so.9");
  SetLogSinkForTests(nullptr);
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_THAT(lines[0], HasSubstr("attention by our own kernels: cuDNN cannot be opened: "));
}

TEST(CudnnVariantTest, WithALibraryThatLacksAFunctionOurOwnRunsAndSaysWhichOne) {
  EXPECT_THAT(VariantUnder(FileOfLibm()),
              AllOf(StartsWith("mma, not cuDNN: "), HasSubstr("has no cudnnGetVersion")));
}

TEST(CudnnVariantTest, OffIsOurOwnWithoutAWord) { EXPECT_EQ(VariantUnder("off"), "mma"); }

TEST(CudnnVariantTest, WhatOurTensorCoresDoNotDoIsNoQuestionOfCudnn) {
  EXPECT_EQ(VariantUnder("/nowhere/libcudnn.so.9", {1, 7, 1, 136}),
            "simple: head dim 136 is over 128");
  EXPECT_EQ(VariantUnder("/nowhere/libcudnn.so.9", kProblem, DType::kF32), "simple: f32");
}

TEST(CudnnVariantTest, AnotherSettingIsRefusedByName) {
  setenv("VITSCALE_CUDNN", "yes", 1);
  SelfAttentionForward f(kProblem, DType::kBf16, 1);
  EXPECT_THAT(f.pair.Run(f.args),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("VITSCALE_CUDNN is 'yes', want auto, on, off")));
  setenv("VITSCALE_CUDNN", "off", 1);
}

TEST(CudnnVariantTest, OfTwoThatAgreeTheFasterOneRunsUnlessCudnnIsAskedFor) {
  constexpr cuda::AttentionSeconds kFaster{120e-6, 105e-6}, kSlower{120e-6, 150e-6};
  EXPECT_TRUE(Decide(cuda::CudnnUse::kIfFaster, kFaster).take_cudnn);
  EXPECT_EQ(Decide(cuda::CudnnUse::kIfFaster, kFaster).why, "105.0 us, our own 120.0 us");
  EXPECT_FALSE(Decide(cuda::CudnnUse::kIfFaster, kSlower).take_cudnn);
  EXPECT_EQ(Decide(cuda::CudnnUse::kIfFaster, kSlower).why, "it takes 150.0 us, this 120.0 us");
  EXPECT_TRUE(Decide(cuda::CudnnUse::kIfRight, kSlower).take_cudnn);
  EXPECT_FALSE(Decide(cuda::CudnnUse::kOff, kFaster).take_cudnn);
}

TEST(CudnnVariantTest, SettingsAreReadAsTheHeaderSays) {
  EXPECT_EQ(cuda::ParseCudnnSetting(nullptr)->use, cuda::CudnnUse::kIfFaster);
  EXPECT_EQ(cuda::ParseCudnnSetting(nullptr)->file, "libcudnn.so.9");
  EXPECT_EQ(cuda::ParseCudnnSetting("auto")->use, cuda::CudnnUse::kIfFaster);
  EXPECT_EQ(cuda::ParseCudnnSetting("")->use, cuda::CudnnUse::kIfFaster);
  EXPECT_EQ(cuda::ParseCudnnSetting("on")->use, cuda::CudnnUse::kIfRight);
  EXPECT_EQ(cuda::ParseCudnnSetting("off")->use, cuda::CudnnUse::kOff);
  EXPECT_EQ(cuda::ParseCudnnSetting("/opt/libcudnn.so.9")->file, "/opt/libcudnn.so.9");
}

}  // namespace
}  // namespace vitscale
