// What becomes of a trainer whose communicator cannot be aborted: it ends, and its agent starts
// another.

#include <cstdlib>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/files.h"
#include "tests/worker/trainer/test_gang.h"

namespace vitscale {
namespace {

// Both ranks are threads of the process that ends.
void RunTwoCardsWhoseAbortsHang(const std::string& folder) {
  setenv("VITSCALE_NCCL_HUNG_ABORTS", "1", /*replace=*/1);
  TestGang::Options options;
  options.job = TinyJob({{"batch", "{global: 32, micro: 16}"}});
  options.device = "cuda";
  options.ranks = 2;
  options.checkpoint_root = folder;
  options.faults[1] = "fail_collective@step=2";
  options.recoveries_max = 1;
  (void)RunGang(options);
}

TEST(HungAbortTest, AnAbortThatHangsEndsTheProcessWithTheExitCodeOfALostRank) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TemporaryDirectory folder;
  EXPECT_EXIT(RunTwoCardsWhoseAbortsHang(folder.path()), testing::ExitedWithCode(82),
              "the abort of a sum between cards hangs");
}

}  // namespace
}  // namespace vitscale
