// Cards of an agent: what it registers and reports of one, with a management library that says what
// the test wants.

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/base/files.h"
#include "kernels/base/net.h"
#include "kernels/base/path.h"
#include "tests/status_matchers.h"
#include "tests/worker/agent/cards.h"
#include "tests/worker/agent/fake_coordinator_rpc.h"
#include "tests/worker/agent/fake_trainer_path.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/device_info.h"

namespace vitscale::agent {
namespace {

using testing::HasSubstr;

TEST(DescribeCardTest, SaysWhatTheSchedulerNeedsAndRefusesWhatTheKernelsDoNotRunOn) {
  Card card = SomeCard();
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::DeviceInfo info, DescribeCard("cuda3", card, 2));
  EXPECT_EQ(info.kind(), v1::DEVICE_CUDA);
  EXPECT_EQ(info.name(), "cuda3");
  EXPECT_EQ(info.model(), "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(info.instruction_set(), "sm_90");
  EXPECT_TRUE(info.bf16());
  EXPECT_EQ(info.memory_bytes(), int64_t{80} << 30);
  EXPECT_EQ(info.driver(), "580.82.07");
  card.divided = true;
  EXPECT_THAT(DescribeCard("cuda3", card, 2),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("divided into instances (MIG), want a whole card")));
  card.sm = 75;
  EXPECT_THAT(DescribeCard("cuda3", card, 2),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("want sm_80 or later")));
}

// ---- the share of the peak -------------------------------------------------------

double ValueOf(const AgentMetrics& metrics, const std::string& name) {
  for (const auto& family : metrics.Collect()) {
    if (family.name == name) return family.metric.at(0).gauge.value;
  }
  return -1;
}

TEST(CardMetricsTest, TheShareOfThePeakIsThatOfThePrecisionAndAbsentForAnUnknownCard) {
  const auto share = [](const std::optional<CardLimits>& card, link::Precision precision) {
    AgentMetrics metrics("w0", "cuda0", card);
    WorkerGauges gauges;
    gauges.precision = precision;
    metrics.SetWorker(gauges);
    metrics.TrainerStarted("job", 0);
    link::TrainerMetrics trainer;
    trainer.flops_per_second = 300e12;
    metrics.Update(trainer);
    return ValueOf(metrics, "vitscale_train_mfu_ratio");
  };
  const CardLimits known{int64_t{80} << 30, 1000e12, 60e12};
  EXPECT_DOUBLE_EQ(share(known, link::Precision::kBf16), 0.3);
  EXPECT_DOUBLE_EQ(share(known, link::Precision::kF32), 5.0);
  EXPECT_EQ(share(known, link::Precision::kUnspecified), -1);
  EXPECT_EQ(share(CardLimits{int64_t{80} << 30, 0, 0}, link::Precision::kBf16), -1);
  EXPECT_EQ(share(std::nullopt, link::Precision::kBf16), -1);
}

TEST(CardMetricsTest, OfACardThatCannotBeReadOnlyItsSizeAndItsDirtAreTold) {
  AgentMetrics metrics("w0", "cuda0", CardLimits{int64_t{80} << 30, 0, 0});
  WorkerGauges gauges;
  gauges.device_use = link::DeviceUse{1 << 24, 2 << 24, 3, "process 4711 holds it"};
  metrics.SetWorker(gauges);
  EXPECT_EQ(ValueOf(metrics, "vitscale_worker_device_memory_used_bytes"), 1 << 24);
  EXPECT_EQ(ValueOf(metrics, "vitscale_worker_device_foreign_processes"), 3);
  gauges.device_use = link::DeviceUse{0, 0, 0, "card 0: its driver has not answered for 30s"};
  metrics.SetWorker(gauges);
  EXPECT_EQ(ValueOf(metrics, "vitscale_worker_device_memory_used_bytes"), -1) << "0 would be a lie";
  EXPECT_EQ(ValueOf(metrics, "vitscale_worker_device_foreign_processes"), -1);
  EXPECT_EQ(ValueOf(metrics, "vitscale_worker_device_memory_bytes"), int64_t{80} << 30);
  EXPECT_EQ(ValueOf(metrics, "vitscale_worker_device_dirty"), 1);
}

// ---- the program ------------------------------------------------------------------

class CardProgramTest : public testing::Test {
 protected:
  CardProgramTest() {
    setenv("VITSCALE_NVML", VITSCALE_FAKE_NVML, 1);
    setenv("FAKE_NVML", Path("cards").c_str(), 1);
    setenv("CUDA_VISIBLE_DEVICES", "1", 1);
  }
  ~CardProgramTest() override {
    if (pid_ != 0) Stop(SIGKILL);
    for (const char* name : {"VITSCALE_NVML", "FAKE_NVML", "CUDA_VISIBLE_DEVICES"}) unsetenv(name);
  }
  std::string Path(const std::string& name) const { return JoinPath(folder_.path(), name); }
  // Atomically: the program reads it at any moment.
  void Say(const std::string& processes) {
    std::ofstream(Path("new")) << "count 2\ncard 0 name NVIDIA H100 80GB HBM3\n"
                                  "card 0 memory 85520809984 600000000 84900000000 20000000\n"
                               << processes;
    ASSERT_EQ(rename(Path("new").c_str(), Path("cards").c_str()), 0);
  }
  void Start(const std::string& device) {
    const std::string self = *PosixFileSystem().RealPath("/proc/self/exe");
    std::vector<std::string> flags = {JoinPath(DirectoryName(self), "../bin/vitscale-worker"),
                                      "--coordinator=" + coordinator_.address(),
                                      "--worker-id=w0",
                                      "--device=" + device,
                                      "--state-dir=" + Path("state"),
                                      "--lock-dir=" + folder_.path(),
                                      "--trainer=" + FakeTrainerPath(),
                                      "--data-root=" + folder_.path(),
                                      "--checkpoint-root=" + folder_.path(),
                                      "--faults=obey"};
    std::vector<char*> argv;
    for (std::string& flag : flags) argv.push_back(flag.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, Path("log").c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                     0600);
    ASSERT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  int Stop(int signal) {
    int status = 0;
    if (signal != 0) kill(pid_, signal);
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string Log() const {
    const auto text = PosixFileSystem().ReadFile(Path("log"), 1 << 20);
    return text.ok() ? *text : "";
  }
  bool WaitForDirt(const std::string& part) {
    return coordinator_.WaitFor([&](const v1::ObservedState& observed) {
      return observed.has_device_use() && observed.device_use().dirty().empty() == part.empty() &&
             absl::StrContains(observed.device_use().dirty(), part);
    });
  }
  static v1::DesiredState Desired(v1::Stage stage) {
    v1::DesiredState desired;
    desired.set_job_id("jobjobjobjob");
    desired.set_attempt(1);
    desired.set_generation(1);
    desired.set_stage(stage);
    desired.set_grace_seconds(0.5);
    desired.mutable_spec()->set_name("fake");
    return desired;
  }

  TemporaryDirectory folder_;
  FakeCoordinator coordinator_;
  pid_t pid_ = 0;
};

TEST_F(CardProgramTest, RegistersItsCardAndReportsWhenSomebodyElseComesAndGoes) {
  Say("");
  Start("cuda0");
  ASSERT_TRUE(WaitForDirt("")) << Log();
  const v1::DeviceInfo device = coordinator_.registration().device();
  EXPECT_EQ(device.kind(), v1::DEVICE_CUDA);
  EXPECT_EQ(device.model(), "NVIDIA H100 80GB HBM3") << "whatever CUDA_VISIBLE_DEVICES says";
  EXPECT_EQ(device.driver(), "580.82.07");
  EXPECT_EQ(device.memory_bytes(), 84920809984);
  EXPECT_NEAR(static_cast<double>(coordinator_.observed().device_use().free_bytes()), 84.9e9, 2e7);
  Say("card 0 process 4711 71300000000\n");
  ASSERT_TRUE(WaitForDirt("process 4711 holds 71.3 GB of it"));
  EXPECT_EQ(coordinator_.observed().device_use().foreign_processes(), 1);
  Say("");
  ASSERT_TRUE(WaitForDirt(""));
  Say("error nvmlDeviceGetMemoryInfo_v2 15\nerror nvmlDeviceGetMemoryInfo 15\n");
  ASSERT_TRUE(WaitForDirt("card 0: NVML: memory: error 15 (GPU is lost)"));
  EXPECT_EQ(Stop(SIGTERM), 0);
}

TEST_F(CardProgramTest, WhileItsTrainerRunsItsCardIsNotDirtyAndAfterwardsItMayBe) {
  Say("");
  Start("cuda0");
  ASSERT_TRUE(WaitForDirt("")) << Log();
  coordinator_.Want(Desired(v1::STAGE_PREPARE));
  ASSERT_TRUE(coordinator_.WaitFor(
      [](const v1::ObservedState& o) { return o.stage() == v1::STAGE_PREPARE; }));
  Say(absl::StrCat("card 0 process ", coordinator_.observed().trainer_pid(),
                   " 5000000000\ncard 0 process 4711 1000000000\n"));
  ASSERT_TRUE(coordinator_.WaitFor([](const v1::ObservedState& o) {
    return o.device_use().foreign_processes() == 1;
  })) << "its own is none";
  EXPECT_EQ(coordinator_.observed().device_use().dirty(), "");
  coordinator_.Want(Desired(v1::STAGE_EXIT));
  ASSERT_TRUE(WaitForDirt("holds 5.0 GB of it, and 1 more")) << "as long as the driver lists them";
  EXPECT_TRUE(coordinator_.observed().exited());
}

TEST_F(CardProgramTest, ACardThatSomebodyUsesFromTheStartIsNeverReportedAsFree) {
  Say("card 0 process 4711 71300000000\n");
  Start("cuda0");
  ASSERT_TRUE(WaitForDirt("process 4711")) << Log();
  EXPECT_THAT(coordinator_.first_observed().device_use().dirty(), HasSubstr("process 4711"));
}

// The driver numbers cards by their place: after one is gone, the next has its number.
TEST_F(CardProgramTest, AnotherCardInThePlaceOfTheRegisteredOneIsDirty) {
  Say("card 0 uuid GPU-aaaa\n");
  Start("cuda0");
  ASSERT_TRUE(WaitForDirt("")) << Log();
  Say("card 0 uuid GPU-bbbb\n");
  ASSERT_TRUE(
      WaitForDirt("card 0 is another one by now: GPU-bbbb, this worker is registered with "
                  "GPU-aaaa; start it again"));
  Say("card 0 uuid GPU-aaaa\nsays lost\\n\x1b\xff\nerror nvmlDeviceGetName 15\n");
  ASSERT_TRUE(WaitForDirt("card 0: NVML: name: error 15 (lost???)"))
      << "bytes that are no UTF-8 must not end the session";
  Say("card 0 uuid GPU-aaaa\n");
  ASSERT_TRUE(WaitForDirt(""));
  EXPECT_EQ(coordinator_.sessions(), 1);
}

TEST_F(CardProgramTest, ACardThatIsNotThereIsOneLine) {
  Say("");
  const auto run = [&](const std::string& device) {
    Start(device);
    EXPECT_EQ(Stop(0), 78);
    return Log();
  };
  EXPECT_EQ(run("cuda2"), "vitscale-worker: --device cuda2: card 2: this machine has 2\n");
  Say("card 0 mig 1\n");
  EXPECT_THAT(run("cuda0"), testing::StartsWith("vitscale-worker: --device "
                                                "cuda0: device 'cuda0' is NVIDIA H100 80GB HBM3, "
                                                "divided into instances (MIG)"));
  setenv("VITSCALE_NVML", "/nowhere/libnvidia-ml.so.1", 1);
  const std::string log = run("cuda0");
  EXPECT_THAT(log, testing::StartsWith("vitscale-worker: --device cuda0: no "
                                       "NVIDIA driver: /nowhere/libnvidia-ml.so.1"));
  EXPECT_EQ(log.find('\n'), log.size() - 1) << log;
}

}  // namespace
}  // namespace vitscale::agent
