// Logs, steps, events, checkpoints and workers, against a fake coordinator.

#include <fstream>

#include "client/output.h"
#include "kernels/base/files.h"
#include "nlohmann/json.hpp"
#include "tests/client/cli_fixture.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// ---- records ------------------------------------------------------------------------------------

TEST_F(CliTest, LogsPrintLinesAndFilterByRank) {
  EXPECT_EQ(Run({"logs", "tiny", "--rank", "1"}), 0);
  EXPECT_EQ(Lines().size(), 3u);
  EXPECT_THAT(Lines()[0], HasSubstr("[rank 1] line 1"));
  coordinator_.breaks = {{2, absl::UnavailableError("gone")}};
  coordinator_.repeat = 2;
  EXPECT_EQ(Run({"logs", "tiny", "-f"}), 0);
  EXPECT_EQ(Lines().size(), 5u) << out();
}

TEST_F(CliTest, LogsStepsPrintsEveryStepInEveryFormat) {
  EXPECT_EQ(Run({"logs", "tiny", "--steps", "-o", "json"}), 0);
  ASSERT_EQ(Lines().size(), 20u);
  EXPECT_EQ(nlohmann::json::parse(Lines()[19])["step"], 20);
  EXPECT_EQ(Run({"logs", "tiny", "--steps", "-o", "csv"}), 0);
  ASSERT_EQ(Lines().size(), 21u) << "pages share one head";
  EXPECT_THAT(Lines()[0], HasSubstr("step,images,loss,accuracy,learning_rate"));
  EXPECT_THAT(Lines()[3], HasSubstr("3,96,0.6666666666666666,"));
  EXPECT_EQ(Run({"logs", "tiny", "--steps", "--tail", "5"}), 0);
  EXPECT_EQ(Lines().size(), 6u);
}

TEST_F(CliTest, EventsCanBeFollowed) {
  EXPECT_EQ(Run({"events", "tiny", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).size(), 5u);
  coordinator_.breaks = {{2, absl::UnavailableError("gone")}};
  EXPECT_EQ(Run({"events", "tiny", "-f", "--timeout", "3s"}), 124);
  EXPECT_EQ(Lines().size(), 5u) << out();
}

TEST_F(CliTest, PlotAndSummaryWriteAPicture) {
  TemporaryDirectory folder;
  const std::string path = folder.path() + "/loss.svg";
  EXPECT_EQ(Run({"plot", "tiny", "--output", path}), 0) << err();
  EXPECT_EQ(out(), path + "\n");
  std::ifstream in(path);
  const std::string svg((std::istreambuf_iterator<char>(in)), {});
  EXPECT_THAT(svg, HasSubstr("<polyline"));
  EXPECT_EQ(Run({"plot", "tiny", "-o", "-"}), 0);
  EXPECT_EQ(out(), svg);
  EXPECT_EQ(Run({"plot", "tiny", "--output", folder.path() + "/no/where.svg"}), 3);
  EXPECT_EQ(Run({"summary", "tiny", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  for (const char* key : {"top1", "loss", "images_per_second", "training_seconds", "checkpoint"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["top1"], 0.875);
}

TEST_F(CliTest, EveryLossSaysOfWhichStepsItIs) {
  for (int step = 21; step <= 200; ++step) {
    v1::StepRecord record;
    record.set_step(step);
    record.set_loss(2.0 / step);
    coordinator_.steps.push_back(record);
  }
  v1::Job& job = coordinator_.jobs["job1"];
  job.set_step(200);
  *job.mutable_last_step() = coordinator_.steps.back();
  EXPECT_EQ(Run({"summary", "tiny"}), 0);
  EXPECT_THAT(out(), HasSubstr("training loss    0.01003 (mean of the last 2 steps; the last one "
                               "alone: 0.01000)"));
  EXPECT_EQ(Run({"summary", "tiny", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  EXPECT_DOUBLE_EQ(json["loss"], (2.0 / 199 + 2.0 / 200) / 2);
  EXPECT_EQ(json["loss_mean_steps"], 2);
  EXPECT_EQ(json["loss_last_step"], 0.01);
  EXPECT_EQ(Run({"list"}), 0);
  EXPECT_THAT(Lines()[0], HasSubstr("LAST_LOSS"));
  EXPECT_EQ(Run({"list", "--help"}), 0);
  EXPECT_THAT(out(), HasSubstr("LAST_LOSS is the training loss of the last step alone"));
  EXPECT_EQ(Run({"get", "tiny"}), 0);
  EXPECT_THAT(out(), HasSubstr("last step    loss 0.01"));
  EXPECT_EQ(Run({"watch", "tiny"}), 0);
  EXPECT_THAT(Lines().back(), HasSubstr("loss of the last step 0.01000"));
}

TEST_F(CliTest, CheckpointsAreListedAndPinned) {
  for (const bool deleted : {false, true}) {
    v1::CheckpointInfo info;
    info.set_id(deleted ? "job1/old" : "job1/new");
    info.set_deleted(deleted);
    coordinator_.checkpoints.push_back(info);
  }
  EXPECT_EQ(Run({"checkpoints", "list", "tiny"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("job1/new"), Not(HasSubstr("job1/old"))));
  EXPECT_EQ(Run({"checkpoints", "list", "tiny", "--deleted"}), 0);
  EXPECT_THAT(out(), HasSubstr("job1/old"));
  EXPECT_EQ(Run({"checkpoints", "pin", "job1/new"}), 0);
  EXPECT_TRUE(coordinator_.pins[0].pinned());
  EXPECT_EQ(Run({"checkpoints", "unpin", "job1/new"}), 0);
  EXPECT_FALSE(coordinator_.pins[1].pinned());
}

TEST_F(CliTest, WorkersAreListedDrainedAndReleased) {
  v1::Worker worker;
  worker.set_id("w0");
  worker.set_state(v1::WORKER_STATE_IDLE);
  coordinator_.workers.push_back(worker);
  EXPECT_EQ(Run({"workers"}), 0);
  EXPECT_THAT(out(), HasSubstr("w0  IDLE"));
  EXPECT_EQ(Run({"workers", "list", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())[0]["state"], "IDLE");
  EXPECT_EQ(Run({"workers", "drain", "w0"}), 0);
  EXPECT_TRUE(coordinator_.updates[0].drain());
  EXPECT_EQ(Run({"workers", "drain", "w0", "--undo"}), 0);
  EXPECT_FALSE(coordinator_.updates[1].drain());
  EXPECT_EQ(coordinator_.updates[1].action_case(), v1::UpdateWorkerRequest::kDrain);
  EXPECT_EQ(Run({"workers", "release", "w0"}), 0);
  EXPECT_TRUE(coordinator_.updates[2].release());
}

TEST_F(CliTest, WorkersShowTheirCardsAndWhyOneTakesNothing) {
  v1::Worker cpu, card;
  cpu.set_id("w0");
  cpu.set_state(v1::WORKER_STATE_IDLE);
  cpu.mutable_device()->set_kind(v1::DEVICE_CPU);
  cpu.mutable_device()->set_name("cpu0");
  card.set_id("w1");
  card.set_state(v1::WORKER_STATE_DIRTY);
  card.set_reason("foreign_process");
  card.mutable_device()->set_kind(v1::DEVICE_CUDA);
  card.mutable_device()->set_name("cuda0");
  card.mutable_device()->set_model("NVIDIA H100 80GB HBM3");
  card.mutable_device()->set_driver("580.82.07");
  card.mutable_device()->set_memory_bytes(int64_t{80} << 30);
  card.mutable_device_use()->set_free_bytes(int64_t{8} << 30);
  card.mutable_device_use()->set_dirty("process 4711 holds 71.3 GB of it");
  coordinator_.workers = {cpu};
  EXPECT_EQ(Run({"workers"}), 0);
  EXPECT_THAT(out(), Not(HasSubstr("CARD"))) << "where there is none";
  coordinator_.workers.push_back(card);
  EXPECT_EQ(Run({"workers"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("CARD"), HasSubstr("w1  DIRTY"),
                           HasSubstr("NVIDIA H100 80GB HBM3"), HasSubstr("8.00 GiB of 80.0 GiB")));
  EXPECT_EQ(Run({"workers", "list", "-o", "wide"}), 0);
  EXPECT_THAT(out(), AllOf(HasSubstr("580.82.07"),
                           HasSubstr("foreign_process: process 4711 holds 71.3 GB of it")));
  EXPECT_EQ(Run({"workers", "list", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())[1]["state"], "DIRTY");
}
}  // namespace
}  // namespace vitscale
