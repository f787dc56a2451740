#include "worker/trainer/device_name.h"

#include <unistd.h>

#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using enum WantedDevice;
using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusCode CodeOf(const absl::StatusOr<std::string>& result) {
  return result.status().code();
}

TEST(DeviceNameTest, TheFlagDecidesThenTheJobThenACpu) {
  EXPECT_EQ(DeviceOfRank("", kAny, 0).value(), "cpu0");
  EXPECT_EQ(DeviceOfRank("", kCpu, 3).value(), "cpu3");
  EXPECT_EQ(DeviceOfRank("", kCuda, 3).value(), "cuda3");
  EXPECT_EQ(DeviceOfRank("cuda", kAny, 1).value(), "cuda1") << "the rank's card";
  EXPECT_EQ(DeviceOfRank("cuda:7", kCuda, 1).value(), "cuda7");
  EXPECT_EQ(DeviceOfRank("cpu", kAny, 0).value(), "cpu0");
}

TEST(DeviceNameTest, WhatIsNoDeviceOrNotWantedIsRefusedWithBothValues) {
  for (const char* bad : {"gpu", "cuda0", "cuda:", "cuda:-1", "cuda:+1", "cuda:01", "cuda: 1",
                          "cuda:1x", "cuda:99999999999", "cpu0"}) {
    EXPECT_EQ(CodeOf(DeviceOfRank(bad, kAny, 0)), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_THAT(DeviceOfRank("cuda:1", kCpu, 0),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("cuda:1"), HasSubstr("resources.device: cpu"))));
}

TEST(DeviceNameTest, AWorkersDeviceIsNamedAsABackendCallsIt) {
  EXPECT_EQ(BackendDeviceOf("", kAny).value(), "cpu");
  EXPECT_EQ(BackendDeviceOf("cpu12", kCpu).value(), "cpu");
  EXPECT_EQ(BackendDeviceOf("cuda3", kAny).value(), "cuda:3");
  for (const char* bad : {"cuda", "cpu", "cuda:3", "cuda-1", "tpu0", "cuda03"}) {
    EXPECT_EQ(CodeOf(BackendDeviceOf(bad, kAny)), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(CodeOf(BackendDeviceOf("cpu0", kCuda)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(BackendDeviceOf("cuda0", kCpu)), absl::StatusCode::kInvalidArgument);
}

TEST(DeviceNameTest, TheMemoryOfACpuIsTheHostsAndOfAnUnknownCardUnknown) {
  EXPECT_EQ(DeviceMemoryBytes("cpu"), int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE));
  EXPECT_EQ(DeviceMemoryBytes("cuda:1000"), 0);
}

}  // namespace
}  // namespace vitscale
