// Cards as the management library tells them: a real library, opened as a driver's is, that says
// what a test wants. No test here needs a driver.

#include "worker/card/nvml.h"

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kTwoCards[] =
    "count 2\n"
    "driver 580.82.07\n"
    "card 0 name NVIDIA H100 80GB HBM3\n"
    "card 0 uuid GPU-aaaa\n"
    "card 0 memory 85520809984 600000000 84900000000 20000000\n"
    "card 1 name NVIDIA A10\n"
    "card 1 uuid GPU-bbbb\n"
    "card 1 capability 8 6\n"
    "card 1 memory 24146608128 300000000 3000000000 20800000000\n"
    "card 1 process 4711 20700000000\n"
    "card 1 process 4712 100000000\n";

class NvmlTest : public ::testing::Test {
 protected:
  NvmlTest() { setenv("FAKE_NVML", path_.c_str(), 1); }
  ~NvmlTest() override {
    unsetenv("FAKE_NVML");
    unsetenv("VITSCALE_NVML");
    unsetenv("CUDA_VISIBLE_DEVICES");
  }
  void Say(const std::string& scenario) { std::ofstream(path_) << scenario; }
  // Card 0 of a scenario.
  absl::StatusOr<Card> Read(const std::string& scenario) {
    Say(scenario);
    VITSCALE_ASSIGN_OR_RETURN(const auto nvml, Nvml::Open(VITSCALE_FAKE_NVML));
    return nvml->Read(0);
  }

  const TemporaryDirectory folder_;
  const std::string path_ = folder_.path() + "/cards";
};

TEST_F(NvmlTest, WithoutALibraryThereAreNoCardsAndOneLineSaysSo) {
  EXPECT_THAT(Nvml::Open("/nowhere/libnvidia-ml.so.1"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("no NVIDIA driver: /nowhere/libnvidia-ml.so.1"),
                             Not(HasSubstr("\n")))));
  setenv("VITSCALE_NVML", "/nowhere/else.so", 1);
  EXPECT_THAT(Nvml::Open(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("/nowhere/else.so")));
}

TEST_F(NvmlTest, ALibraryThatIsTooOldOrHasNoDriverIsNamed) {
  EXPECT_THAT(Nvml::Open(VITSCALE_OLD_NVML),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("has no nvmlSystemGetDriverVersion: its driver is too old")));
  Say("error nvmlInit_v2 9\n");
  EXPECT_THAT(Nvml::Open(VITSCALE_FAKE_NVML),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("9 (Driver Not Loaded)")));
}

TEST_F(NvmlTest, TwoCardsAreRead) {
  Say(kTwoCards);
  setenv("VITSCALE_NVML", VITSCALE_FAKE_NVML, 1);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto nvml, Nvml::Open());
  EXPECT_EQ(*nvml->Count(), 2);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Card first, nvml->Read(0));
  EXPECT_EQ(first.name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(first.uuid, "GPU-aaaa");
  EXPECT_EQ(first.driver, "580.82.07");
  EXPECT_EQ(first.sm, 90);
  EXPECT_EQ(first.memory_bytes, 85520809984 - 600000000) << "what the driver keeps is nobody's";
  EXPECT_EQ(first.used_bytes, 20000000) << "without what the driver keeps for itself";
  EXPECT_EQ(first.free_bytes, 84900000000);
  EXPECT_THAT(first.processes, IsEmpty());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Card second, nvml->Read(1));
  EXPECT_EQ(second.sm, 86);
  EXPECT_THAT(second.processes,
              ElementsAre(CardProcess{4711, 20700000000}, CardProcess{4712, 100000000}));
  EXPECT_THAT(nvml->Read(2),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("card 2: this machine has 2")));
}

TEST_F(NvmlTest, NoCardsIsNoError) {
  Say("count 0\n");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto nvml, Nvml::Open(VITSCALE_FAKE_NVML));
  EXPECT_EQ(*nvml->Count(), 0);
  EXPECT_THAT(nvml->Read(0), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(NvmlTest, ACardIsDirtyByAProcessOrByMemoryThatSomebodyHolds) {
  Say(kTwoCards);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto nvml, Nvml::Open(VITSCALE_FAKE_NVML));
  EXPECT_EQ(DirtyReason(*nvml->Read(0)), "");
  EXPECT_EQ(DirtyReason(*nvml->Read(1)), "process 4711 holds 20.7 GB of it, and 1 more");
  Say("count 1\ncard 0 memory 80000000000 0 79400000000 600000000\n");
  EXPECT_EQ(DirtyReason(*nvml->Read(0)), "0.6 GB of it are in use");
  Say("count 1\ncard 0 memory 80000000000 0 79500000000 500000000\n");
  EXPECT_EQ(DirtyReason(*nvml->Read(0)), "") << "a display, not a computation";
  // Where the driver does not say how much.
  Say("count 1\ncard 0 memory 80 0 80 0\ncard 0 process 12 18446744073709551615\n");
  EXPECT_EQ(DirtyReason(*nvml->Read(0)), "process 12 holds it");
}

TEST_F(NvmlTest, AnOldFormOfTheMemoryIsUnderstood) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const Card card, Read(absl::StrCat(kTwoCards, "error nvmlDeviceGetMemoryInfo_v2 25\n")));
  EXPECT_EQ(card.used_bytes, 620000000) << "with what the driver keeps for itself";
}

TEST_F(NvmlTest, WhatCannotBeIsAnErrorThatNamesTheCardAndTheValue) {
  const std::string good = kTwoCards;
  const auto refuses = [&](const std::string& more, const std::string& part) {
    EXPECT_THAT(Read(good + more), StatusIs(absl::StatusCode::kInternal, HasSubstr(part))) << more;
  };
  refuses("count 4294967295\n", "4294967295 cards, want at most 256");
  refuses("card 0 memory 0 0 0 0\n", "card 0: NVML: memory does not add up: 0 bytes");
  refuses("card 0 memory 100 0 50 101\n", "memory does not add up: 100 bytes, 101 used");
  refuses("card 0 memory 18446744073709551615 0 0 0\n", "memory does not add up");
  refuses("card 0 memory 100 100 0 0\n", "memory does not add up");
  refuses("card 0 capability -9 0\n", "compute capability is -9.0");
  refuses("card 0 capability 9 2000000000\n", "compute capability is 9.2000000000");
  refuses("claim 4294967295\n", "4294967295 processes, want at most 4096");
  refuses("error nvmlDeviceGetComputeRunningProcesses_v3 7\n", "grows faster than it can be read");
  for (const char* function :
       {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetName", "nvmlDeviceGetUUID",
        "nvmlSystemGetDriverVersion", "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetComputeRunningProcesses_v3"}) {
    refuses(absl::StrCat("error ", function, " 15\n"), "error 15 (GPU is lost)");
    refuses(absl::StrCat("error ", function, " 999\n"), "error 999 (unknown)");
  }
  EXPECT_THAT(Read(good + "error nvmlDeviceGetComputeRunningProcesses_v3 3\n"), IsOk())
      << "a card that does not support the list";
}

TEST_F(NvmlTest, TextsThatDoNotEndOrAreNoTextAreHarmless) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Card card, Read(absl::StrCat(kTwoCards, "unterminated\n")));
  EXPECT_EQ(card.name, std::string(96, 'x'));
  EXPECT_EQ(card.driver, std::string(96, 'x'));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Card odd,
                                Read(absl::StrCat(kTwoCards, "card 0 name \x1b[31mNVIDIA\xff\n")));
  EXPECT_EQ(odd.name, "?[31mNVIDIA?");
}

TEST_F(NvmlTest, ManyProcessesAreReadInSeveralTries) {
  std::string scenario = kTwoCards;
  for (int i = 0; i < 300; ++i) absl::StrAppend(&scenario, "card 0 process ", 100 + i, " 1\n");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Card card, Read(scenario));
  EXPECT_THAT(card.processes, SizeIs(300));
  EXPECT_EQ(card.processes[299].pid, 399);
}

// A line's end or a colour in it would be a second line of a log; bytes that are no UTF-8 would
// make a message that nobody can read.
TEST_F(NvmlTest, ErrorsThatTheLibraryNamesOddlyStayOneLineOfPlainText) {
  const std::string broken = absl::StrCat(kTwoCards, "error nvmlDeviceGetName 15\n");
  EXPECT_THAT(
      Read(broken + "says lost\\n\x1b[31mcard\xff\n"),
      StatusIs(absl::StatusCode::kInternal, "card 0: NVML: name: error 15 (lost??[31mcard?)"));
  EXPECT_THAT(Read(absl::StrCat(broken, "says ", std::string(5000, 'x'), "\n")),
              StatusIs(absl::StatusCode::kInternal, AllOf(HasSubstr(std::string(96, 'x')),
                                                          Not(HasSubstr(std::string(97, 'x'))))));
  Say("error nvmlInit_v2 9\nsays no\\ndriver\n");
  EXPECT_THAT(Nvml::Open(VITSCALE_FAKE_NVML),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("9 (no?driver)")));
}

TEST_F(NvmlTest, ANameMayHoldQuotesButNoEndOfALine) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const Card card, Read(absl::StrCat(kTwoCards, "card 0 name a\"b\\ncard 1 name {x=\"y\"}\n")));
  EXPECT_EQ(card.name, "a\"b?card 1 name {x=\"y\"}");
}

TEST_F(NvmlTest, ACardThatWasLostIsReadAgainOnceItIsBack) {
  Say(kTwoCards);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto nvml, Nvml::Open(VITSCALE_FAKE_NVML));
  EXPECT_THAT(nvml->Read(0), IsOk());
  Say(absl::StrCat(kTwoCards, "driver_load 1\nerror nvmlInit_v2 9\n"));
  for (int i = 0; i < 3; ++i) EXPECT_THAT(nvml->Read(0), StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(nvml->Count(),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("begin anew: error 9")));
  Say(absl::StrCat(kTwoCards, "driver_load 1\n"));
  EXPECT_EQ(nvml->Read(0)->uuid, "GPU-aaaa")
      << "a library that began before the reset sees nothing";
  Say("count 1\ndriver_load 1\n");
  EXPECT_THAT(nvml->Read(1), StatusIs(absl::StatusCode::kNotFound));
  Say(absl::StrCat(kTwoCards, "driver_load 2\n"));
  EXPECT_THAT(nvml->Read(1), IsOk()) << "it fell off the bus and came back with the driver";
}

TEST_F(NvmlTest, AProcessIsListedOnceAndHoldsNoMoreThanThereIs) {
  const std::string card = "count 1\ncard 0 memory 1000 0 900 100\n";
  EXPECT_THAT(
      Read(card + "card 0 process 7 300\ncard 0 process 8 1\ncard 0 process 7 200\n")->processes,
      ElementsAre(CardProcess{7, 500}, CardProcess{8, 1}));
  EXPECT_THAT(Read(card + "card 0 process 7 1000\ncard 0 process 7 1000\n")->processes,
              ElementsAre(CardProcess{7, 1000}));
  EXPECT_THAT(Read(card + "card 0 process 7 1001\n")->processes, ElementsAre(CardProcess{7, 0}))
      << "what cannot be is not told";
  EXPECT_EQ(DirtyReason(*Read(card + "card 0 process 0 1000\n")),
            "a process of another container holds 0.0 GB of it");
}

TEST_F(NvmlTest, AnErrorIsToldWhateverTheCountBesideItSays) {
  const std::string lost = "error nvmlDeviceGetComputeRunningProcesses_v3 ";
  EXPECT_THAT(
      Read(absl::StrCat(kTwoCards, "claim 4294967295\n", lost, "15\n")),
      StatusIs(absl::StatusCode::kInternal, HasSubstr("processes: error 15 (GPU is lost)")));
  EXPECT_THAT(Read(absl::StrCat(kTwoCards, "claim 4294967295\n", lost, "4\n"))->processes,
              IsEmpty())
      << "a list that is not for us; the memory in use still tells";
}

TEST_F(NvmlTest, ADividedCardIsToldAndDirty) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Card card, Read(absl::StrCat(kTwoCards, "card 0 mig 1\n")));
  EXPECT_TRUE(card.divided);
  EXPECT_THAT(DirtyReason(card), HasSubstr("divided into instances (MIG)"));
  EXPECT_FALSE(
      Read(absl::StrCat(kTwoCards, "card 0 mig 1\nerror nvmlDeviceGetMigMode 3\n"))->divided)
      << "a card that cannot be divided";
}

TEST_F(NvmlTest, TheCardThatCudaCallsSoIsFoundAmongThoseThatAreVisible) {
  Say(kTwoCards);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto nvml, Nvml::Open(VITSCALE_FAKE_NVML));
  EXPECT_EQ(nvml->ReadVisible(1)->name, "NVIDIA A10");
  for (const char* visible : {"1,0", "GPU-bbbb,GPU-aaaa", "GPU-bb"}) {
    setenv("CUDA_VISIBLE_DEVICES", visible, 1);
    EXPECT_EQ(nvml->ReadVisible(0)->name, "NVIDIA A10") << visible;
  }
  EXPECT_THAT(nvml->ReadVisible(1), StatusIs(absl::StatusCode::kNotFound));
  for (const char* visible : {"", "7", "-1", "GPU-cc", ","}) {
    setenv("CUDA_VISIBLE_DEVICES", visible, 1);
    EXPECT_THAT(nvml->ReadVisible(0), StatusIs(absl::StatusCode::kNotFound)) << visible;
  }
  // One that cannot be read hides no other, but may be the one that is looked for.
  Say(absl::StrCat(kTwoCards, "card 0 capability 0 0\n"));
  setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb", 1);
  EXPECT_EQ(nvml->ReadVisible(0)->name, "NVIDIA A10");
  setenv("CUDA_VISIBLE_DEVICES", "GPU-cc", 1);
  EXPECT_THAT(nvml->ReadVisible(0), StatusIs(absl::StatusCode::kInternal, HasSubstr("card 0")));
}

}  // namespace
}  // namespace vitscale
