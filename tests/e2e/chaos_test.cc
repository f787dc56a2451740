// A kill at every stage by every victim, with fixed seeds: eight of the kills of chaos_campaign.

#include "tests/e2e/chaos.h"
#include "tests/e2e/cluster_test.h"

#include <memory>

#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

class KillTest : public ClusterTest, public testing::WithParamInterface<Kill> {
 protected:
};

TEST_P(KillTest, TheJobFinishesEveryStepAndOnlyTheVictimIsLost) {
  KillReport report;
  EXPECT_THAT(RunKill(*cluster_, GetParam(), &report), IsOk())
      << "job " << report.job << " killed in " << report.state_at_kill << " at step "
      << report.step_at_kill << "\n"
      << cluster_->CoordinatorLog();
}

INSTANTIATE_TEST_SUITE_P(EveryVictimInEveryStage, KillTest,
                         testing::Values(Kill{Victim::kTrainer, Moment::kStarting, 1},
                                         Kill{Victim::kAgent, Moment::kStarting, 2},
                                         Kill{Victim::kCoordinator, Moment::kStarting, 3},
                                         Kill{Victim::kTrainer, Moment::kTraining, 4},
                                         Kill{Victim::kAgent, Moment::kTraining, 5},
                                         Kill{Victim::kCoordinator, Moment::kTraining, 6},
                                         Kill{Victim::kTrainer, Moment::kCheckpoint, 7},
                                         Kill{Victim::kAgent, Moment::kFinishing, 8}),
                         [](const testing::TestParamInfo<Kill>& info) {
                           return std::string(VictimName(info.param.victim)) + "_" +
                                  MomentName(info.param.moment);
                         });

}  // namespace
}  // namespace vitscale
