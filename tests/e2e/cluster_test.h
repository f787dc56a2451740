// One coordinator with its workers for all tests of a suite, and proof that nothing is left of it.

#ifndef TESTS_E2E_CLUSTER_TEST_H_
#define TESTS_E2E_CLUSTER_TEST_H_

#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "tests/e2e/cluster.h"
#include "tests/status_matchers.h"

namespace vitscale {

class ClusterTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { StartCluster({}); }
  static void TearDownTestSuite() {
    if (cluster_ == nullptr) return;
    EXPECT_THAT(cluster_->StopCoordinator(), IsOk()) << cluster_->CoordinatorLog();
    cluster_.reset();
  }
  void SetUp() override { ASSERT_NE(cluster_, nullptr); }

  static void StartCluster(ClusterOptions options) {
    absl::StatusOr<std::unique_ptr<Cluster>> cluster = Cluster::Start(std::move(options));
    ASSERT_THAT(cluster, IsOk());
    cluster_ = *std::move(cluster);
  }
  static inline std::unique_ptr<Cluster> cluster_;
};

}  // namespace vitscale

#endif  // TESTS_E2E_CLUSTER_TEST_H_
