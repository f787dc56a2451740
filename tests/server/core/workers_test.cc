// Workers: who may register, what is told of their cards, and what runs where.

#include <limits>

#include "tests/server/core/core_fixture.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

TEST_F(CoreTest, AnOlderLifeOfAWorkerAndAWrongProtocolAreRefused) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  agent.life = 2;
  h_.Connect(agent);
  v1::RegisterRequest old = h_.Registration(agent);
  old.set_incarnation("w0-life1");
  old.set_incarnation_start_millis(1);
  const Token token = h_.NextToken();
  h_.Handle(RegisterEvent{token, old});
  EXPECT_THAT(h_.TakeAnswer(token)->status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("newer")));
  v1::RegisterRequest other = h_.Registration(agent);
  other.set_protocol_version(9);
  const Token second = h_.NextToken();
  h_.Handle(RegisterEvent{second, other});
  EXPECT_THAT(h_.TakeAnswer(second)->status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("protocol version")));
}

TEST_F(CoreTest, AWorkerWhoseDeviceCannotBeIsRefusedWithTheField) {
  const auto refuses = [&](auto edit, const std::string& part) {
    v1::RegisterRequest request = h_.Registration(h_.NewAgent("w0"));
    *request.mutable_device() = CardOf("NVIDIA H200");
    edit(*request.mutable_device());
    const Token token = h_.NextToken();
    h_.Handle(RegisterEvent{token, request});
    const auto answer = h_.TakeAnswer(token);
    ASSERT_TRUE(answer.has_value()) << part;
    EXPECT_THAT(answer->status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)));
  };
  refuses([](auto& d) { d.set_kind(v1::DEVICE_ANY); }, "device.kind was");
  refuses([](auto& d) { d.clear_kind(); }, "device.kind was 0, wanted cpu or cuda");
  refuses([](auto& d) { d.set_memory_bytes(-5); }, "device.memory_bytes was -5");
  refuses([](auto& d) { d.set_memory_bytes(int64_t{1} << 60); }, "device.memory_bytes was 11529");
  refuses([](auto& d) { d.set_threads(-1); }, "device.threads was -1");
  refuses([](auto& d) { d.set_model("NVIDIA\nH200"); }, "device.model has control characters");
  refuses([](auto& d) { d.set_driver(std::string(1000, '5')); }, "device.driver has 1000 bytes");
  EXPECT_TRUE(h_.core().Workers().empty());
}

TEST_F(CoreTest, AHostileReportOfACardIsCutToWhatCanBeShown) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  v1::DeviceUse& use = agent.device_use.emplace();
  use.set_used_bytes(-1);
  use.set_free_bytes(std::numeric_limits<int64_t>::min());
  use.set_foreign_processes(-7);
  use.set_dirty(
      absl::StrCat("process\n\x1b[31m ", std::string(285, 'x'), "\u00e4", std::string(9999, 'y')));
  h_.Run(absl::Seconds(1));
  const v1::Worker worker = h_.core().Workers()[0];
  EXPECT_EQ(worker.state(), v1::WORKER_STATE_DIRTY);
  EXPECT_EQ(worker.device_use().used_bytes(), 0);
  EXPECT_EQ(worker.device_use().free_bytes(), 0);
  EXPECT_EQ(worker.device_use().foreign_processes(), 0);
  const std::string expected = absl::StrCat("process??[31m ", std::string(285, 'x'));
  EXPECT_EQ(worker.device_use().dirty(), expected) << "300 bytes, and no half of a character";
  ASSERT_EQ(h_.CountEvents("device_dirty"), 1);
  for (const v1::Event& event : h_.events()) {
    if (event.kind() == "device_dirty") EXPECT_EQ(event.message(), expected);
  }
}

TEST_F(CoreTest, ALeftOverTrainerOfAnEndedAttemptIsToldToExit) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  agent.frozen = true;
  agent.observed.set_job_id("unknown");
  agent.observed.set_attempt(3);
  agent.observed.set_stage(v1::STAGE_GO);
  agent.observed.set_trainer_pid(5);
  h_.Report(agent);
  EXPECT_EQ(agent.desired.stage(), v1::STAGE_EXIT);
  EXPECT_EQ(agent.desired.job_id(), "unknown");
  EXPECT_TRUE(agent.desired.kill());
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_RELEASING);
}

TEST_F(CoreTest, ADirtyCardIsShownAndTakesNothingUntilItIsClean) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  h_.Run(absl::Seconds(1));
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_IDLE);
  agent.device_use.emplace().set_dirty("process 4711 holds 71.3 GB of it");
  agent.device_use->set_free_bytes(8);
  h_.Run(absl::Seconds(1));
  v1::Worker worker = h_.core().Workers()[0];
  EXPECT_EQ(worker.state(), v1::WORKER_STATE_DIRTY);
  EXPECT_EQ(worker.reason(), "foreign_process");
  EXPECT_EQ(worker.device_use().dirty(), "process 4711 holds 71.3 GB of it");
  EXPECT_EQ(worker.device_use().free_bytes(), 8);
  EXPECT_EQ(h_.CountEvents("device_dirty"), 1) << "told once";
  const std::string id = h_.Submit(CoreHarness::Spec(1));
  h_.Run(absl::Seconds(10));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.job(id).reason(), "not_enough_workers");
  agent.device_use->clear_dirty();
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_BUSY);
  EXPECT_EQ(h_.CountEvents("device_clean"), 1);
}

TEST_F(CoreTest, SomebodyWhoComesAndGoesOnACardIsToldOnceAMinute) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  agent.device_use.emplace();
  for (int flip = 0; flip < 200; ++flip) {
    agent.device_use->set_dirty(flip % 2 == 0 ? "process 4711 holds it" : "");
    h_.Run(absl::Milliseconds(500));  // a heartbeat
    EXPECT_EQ(h_.core().Workers()[0].state(),
              flip % 2 == 0 ? v1::WORKER_STATE_DIRTY : v1::WORKER_STATE_IDLE);
  }
  EXPECT_EQ(h_.CountEvents("device_dirty"), 2) << "in 100 s";
  EXPECT_EQ(h_.CountEvents("device_clean"), 2);
}

TEST_F(CoreTest, ACardThatNobodyHasLookedAtTakesNothingYet) {
  SimulatedAgent& agent = h_.NewAgent("card");
  agent.device = CardOf("NVIDIA H200");
  agent.card_unread = true;
  h_.Connect(agent);
  v1::JobSpec spec = CoreHarness::Spec(1);
  spec.mutable_resources()->set_device(v1::DEVICE_CUDA);
  const std::string id = h_.Submit(spec);
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.job(id).message(), "needs 1 cuda worker; 0 can be used");
  agent.card_unread = false;
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
}

// ---- leaving
// --------------------------------------------------------------------------------------

TEST_F(CoreTest, AWorkerThatLeavesInGoodOrderIsForgottenAndMayComeBack) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  h_.AddAgent("w1");
  h_.Run(absl::Seconds(1));
  agent.frozen = true;
  agent.observed.set_draining(true);
  h_.Report(agent);
  ASSERT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_DRAINING);
  h_.Disconnect(agent);
  ASSERT_EQ(h_.core().Workers().size(), 1u);
  EXPECT_EQ(h_.core().Workers()[0].id(), "w1");
  EXPECT_EQ(h_.CountEvents("worker_left"), 1);
  h_.Run(absl::Minutes(1));
  EXPECT_EQ(h_.CountEvents("worker_unreachable"), 0);
  EXPECT_EQ(h_.Stored().workers.size(), 1u);
  ++agent.life;
  agent.observed.Clear();
  agent.frozen = false;
  h_.Connect(agent);
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_IDLE);
}

TEST_F(CoreTest, AWorkerThatIsCutOffOrThatAnOperatorDrainsIsNotForgotten) {
  SimulatedAgent& cut = h_.AddAgent("w0");
  h_.AddAgent("w1");
  h_.Disconnect(cut);
  h_.Handle(UpdateWorkerEvent{{h_.NextToken(), "", 0, "uid:1"}, "w1", false, true});
  h_.Disconnect(h_.agent("w1"));
  h_.Run(absl::Seconds(30));
  ASSERT_EQ(h_.core().Workers().size(), 2u);
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_UNREACHABLE);
}

TEST_F(CoreTest, AWorkerThatLeavesWithATrainerIsKeptUntilTheDeviceIsNobodys) {
  const std::string id = Running(1);
  SimulatedAgent& agent = h_.agent("w0");
  agent.frozen = true;
  agent.observed.set_draining(true);
  h_.Report(agent);
  EXPECT_EQ(h_.job(id).intent(), v1::INTENT_DRAIN);
  h_.Disconnect(agent);
  EXPECT_EQ(h_.core().Workers().size(), 1u) << "its trainer may be stepping";
  h_.Run(absl::Minutes(20));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
}

TEST_F(CoreTest, ReleaseOfAWorkerThatIsNotInQuarantineIsRefused) {
  h_.AddAgent("w0");
  const Token token = h_.NextToken();
  h_.Handle(UpdateWorkerEvent{{token, "", 0, "uid:1"}, "w0", true, std::nullopt});
  EXPECT_THAT(h_.TakeAnswer(token)->status,
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("worker 'w0' is IDLE, not in quarantine")));
}

// ---- cards
// ----------------------------------------------------------------------------------------

// What a trainer that runs shares its card with is no reason to stop it.
TEST_F(CoreTest, ACardThatTurnsDirtyUnderAJobKeepsIt) {
  const std::string id = Running(1);
  h_.agent("w0").device_use.emplace().set_dirty("process 4711 holds it");
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_BUSY);
}

TEST_F(CoreTest, AnyDeviceMeansAllOfOneKindAndCudaMeansCardsOfOneModel) {
  h_.AddAgent("cpu");
  for (const auto& [id, model] : {std::pair{"a", "NVIDIA H100 80GB HBM3"},
                                  std::pair{"b", "NVIDIA H200"}, std::pair{"c", "NVIDIA H200"}}) {
    SimulatedAgent& agent = h_.NewAgent(id);
    agent.device = CardOf(model);
    h_.Connect(agent);
  }
  v1::JobSpec three = CoreHarness::Spec(3), two = CoreHarness::Spec(2);
  three.mutable_resources()->set_device(v1::DEVICE_ANY);
  two.mutable_resources()->set_device(v1::DEVICE_ANY);
  const std::string large = h_.Submit(three), fits = h_.Submit(two);
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(large), v1::JOB_STATE_QUEUED) << "no three of one kind";
  EXPECT_EQ(h_.state(fits), v1::JOB_STATE_RUNNING);
  EXPECT_THAT(h_.job(fits).workers(), testing::ElementsAre("b", "c"));
  EXPECT_EQ(h_.agent("b").desired.instruction_set(), "") << "that is for CPUs";
  v1::JobSpec one = CoreHarness::Spec(1);
  one.mutable_resources()->set_device(v1::DEVICE_CUDA);
  const std::string card = h_.Submit(one);
  h_.Run(absl::Seconds(5));
  EXPECT_THAT(h_.job(card).workers(), testing::ElementsAre("a"));
}

}  // namespace
}  // namespace vitscale
