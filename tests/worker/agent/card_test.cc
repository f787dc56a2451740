// Cards of an agent: what it registers and reports of one, with a management library that says what
// the test wants, and what the numbers of processes mean.

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
#include "tests/worker/agent/fake_coordinator_rpc.h"
#include "tests/worker/agent/fake_trainer_path.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/card_watch.h"
#include "worker/agent/device_info.h"

namespace vitscale::agent {
namespace {

using testing::HasSubstr;

Card SomeCard() {
  Card card;
  card.name = "NVIDIA H100 80GB HBM3";
  card.driver = "580.82.07";
  card.sm = 90;
  card.memory_bytes = int64_t{80} << 30;
  card.free_bytes = int64_t{79} << 30;
  return card;
}

TEST(DeviceUseTest, ProcessesOfTheOwnTrainerAreNotForeign) {
  const auto group_of = [](int64_t pid) { return pid / 10 * 10; };
  Card card = SomeCard();
  card.processes = {{41, 1}, {42, 1}, {77, 1}};
  EXPECT_EQ(DeviceUseOf(card, 40, group_of).foreign_processes, 1);
  EXPECT_EQ(DeviceUseOf(card, 0, group_of).foreign_processes, 3);
  EXPECT_EQ(DeviceUseOf(card, 0, group_of).dirty, "process 41 holds 0.0 GB of it, and 2 more");
  // Numbers of another namespace: its own trainer must be among them, so none says anything.
  EXPECT_EQ(DeviceUseOf(card, 900, group_of).foreign_processes, 0);
}

TEST(DeviceUseTest, ACardThatCannotBeReadIsNotFree) {
  const auto use = DeviceUseOf(absl::InternalError("card 0: NVML: memory: error 15 (GPU is lost)"),
                               0, [](int64_t) { return int64_t{0}; });
  EXPECT_EQ(use.dirty, "card 0: NVML: memory: error 15 (GPU is lost)");
}

TEST(DeviceUseTest, SmallMovesOfMemoryAreNoNews) {
  Card card = SomeCard();
  const auto group_of = [](int64_t) { return int64_t{0}; };
  card.used_bytes = 100'000'000;
  const auto before = DeviceUseOf(card, 0, group_of);
  card.used_bytes += 200'000;
  EXPECT_EQ(DeviceUseOf(card, 0, group_of), before);
  card.used_bytes += 100'000'000;
  EXPECT_NE(DeviceUseOf(card, 0, group_of), before);
}

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
  EXPECT_EQ(device.memory_bytes(), 85520809984);
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

TEST_F(CardProgramTest, ACardThatIsNotThereIsOneLine) {
  Say("");
  const auto run = [&](const std::string& device) {
    Start(device);
    EXPECT_EQ(Stop(0), 78);
    return Log();
  };
  EXPECT_EQ(run("cuda2"),
            "vitscale-worker: NOT_FOUND: --device cuda2: card 2: this machine has 2\n");
  setenv("VITSCALE_NVML", "/nowhere/libnvidia-ml.so.1", 1);
  const std::string log = run("cuda0");
  EXPECT_THAT(log, testing::StartsWith("vitscale-worker: FAILED_PRECONDITION: --device cuda0: no "
                                       "NVIDIA driver: /nowhere/libnvidia-ml.so.1"));
  EXPECT_EQ(log.find('\n'), log.size() - 1) << log;
}

}  // namespace
}  // namespace vitscale::agent
