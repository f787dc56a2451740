// What tests of the core share: a job of several workers that trains, and what they hold.

#ifndef TESTS_SERVER_CORE_CORE_FIXTURE_H_
#define TESTS_SERVER_CORE_CORE_FIXTURE_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "server/core/core.h"
#include "tests/server/core/core_harness.h"
#include "tests/status_matchers.h"

namespace vitscale {

inline v1::CheckpointInfo Checkpoint(const std::string& job, int64_t step, int64_t attempt = 1,
                                     int64_t generation = 1) {
  v1::CheckpointInfo info;
  info.set_id(absl::StrCat(job, "/a", attempt, ".g", generation, ".step_", step));
  info.set_step(step);
  info.set_lineage(1);
  info.set_attempt(attempt);
  info.set_generation(generation);
  return info;
}

// A card as its worker registers it.
inline v1::DeviceInfo CardOf(const std::string& model) {
  v1::DeviceInfo device;
  device.set_kind(v1::DEVICE_CUDA);
  device.set_name("cuda0");
  device.set_model(model);
  device.set_instruction_set("sm_90");
  device.set_bf16(true);
  return device;
}

class CoreTest : public testing::Test {
 protected:
  // A job of two workers that trains.
  std::string Running(int workers = 2) {
    for (int i = 0; i < workers; ++i) h_.AddAgent(absl::StrCat("w", i));
    const std::string id = h_.Submit(CoreHarness::Spec(workers));
    h_.Run(absl::Seconds(5));
    EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
    return id;
  }
  CoreHarness h_;
};

}  // namespace vitscale

#endif  // TESTS_SERVER_CORE_CORE_FIXTURE_H_
