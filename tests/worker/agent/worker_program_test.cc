// The program vitscale-worker against a coordinator of the test and a trainer that trains nothing:
// real processes, real sockets, loopback only.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/clock.h"
#include "kernels/base/files.h"
#include "kernels/base/net.h"
#include "kernels/base/path.h"
#include "tests/status_matchers.h"
#include "tests/worker/agent/fake_coordinator_rpc.h"
#include "tests/worker/agent/fake_trainer_path.h"
#include "worker/agent/device_lock.h"

namespace vitscale::agent {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

std::string WorkerPath() {
  return JoinPath(DirectoryName(*PosixFileSystem().RealPath("/proc/self/exe")),
                  "../bin/vitscale-worker");
}

bool Exists(int64_t pid) { return kill(static_cast<pid_t>(pid), 0) == 0; }

// Waits for something that the kernel does soon.
bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = RealClock().Monotonic() + absl::Seconds(20);
  while (!condition()) {
    if (RealClock().Monotonic() > deadline) return false;
    usleep(5'000);
  }
  return true;
}

// One vitscale-worker; killed at the end of the test at the latest.
class Worker {
 public:
  Worker(const std::string& folder, std::vector<std::string> flags)
      : log_(JoinPath(folder, "log")) {
    flags.insert(flags.begin(), WorkerPath());
    std::vector<char*> argv;
    for (std::string& flag : flags) argv.push_back(flag.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log_.c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                     0600);
    posix_spawn_file_actions_adddup2(&actions, 2, 1);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Worker() {
    if (pid_ == 0) return;
    Kill(SIGKILL);
    Wait();
  }
  void Kill(int signal) { kill(pid_, signal); }
  int Wait() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string Log() const {
    const auto text = PosixFileSystem().ReadFile(log_, 1 << 20);
    return text.ok() ? *text : "";
  }

 private:
  std::string log_;
  pid_t pid_ = 0;
};

class WorkerProgramTest : public testing::Test {
 protected:
  std::vector<std::string> Flags(const std::string& coordinator,
                                 const std::string& faults = "obey") {
    return {"--coordinator=" + coordinator,
            "--worker-id=w0",
            "--state-dir=" + JoinPath(folder_.path(), "state"),
            "--lock-dir=" + folder_.path(),
            "--trainer=" + FakeTrainerPath(),
            "--data-root=" + folder_.path(),
            "--checkpoint-root=" + folder_.path(),
            "--kill-interval=500ms",
            "--faults=" + faults};
  }
  std::unique_ptr<Worker> Start(const std::string& faults = "obey") {
    return std::make_unique<Worker>(folder_.path(), Flags(coordinator_->address(), faults));
  }

  static v1::DesiredState Desired(v1::Stage stage, int64_t generation = 1, int64_t attempt = 1) {
    v1::DesiredState desired;
    desired.set_job_id("jobjobjobjob");
    desired.set_attempt(attempt);
    desired.set_generation(generation);
    desired.set_stage(stage);
    desired.set_grace_seconds(0.5);
    desired.mutable_spec()->set_name("fake");
    return desired;
  }
  void Reach(v1::Stage stage, int64_t generation) {
    coordinator_->Want(Desired(stage, generation));
    ASSERT_TRUE(coordinator_->WaitFor([&](const v1::ObservedState& observed) {
      return observed.stage() == stage && observed.generation() == generation;
    })) << v1::Stage_Name(stage)
        << coordinator_->observed().ShortDebugString();
  }
  // A trainer that has formed `generation`.
  void Form(int64_t generation = 1) {
    Reach(v1::STAGE_PREPARE, generation);
    Reach(v1::STAGE_FORM, generation);
  }
  // A trainer that goes in `generation`.
  void Go(int64_t generation = 1) {
    Form(generation);
    Reach(v1::STAGE_GO, generation);
  }
  bool WaitForLine(const std::string& part) {
    return coordinator_->WaitForRecords([&](const auto& records) {
      const auto lines = Lines(records);
      return std::any_of(lines.begin(), lines.end(),
                         [&](const std::string& line) { return absl::StrContains(line, part); });
    });
  }

  bool LockIsFree() {
    return TakeDeviceLock(folder_.path(), "cpu0", absl::ZeroDuration(), -1).ok();
  }

  static std::vector<std::string> Lines(const std::vector<v1::SpooledRecord>& records) {
    std::vector<std::string> lines;
    for (const v1::SpooledRecord& record : records) {
      if (record.has_log()) lines.push_back(record.log().text());
    }
    return lines;
  }
  static std::vector<int64_t> Steps(const std::vector<v1::SpooledRecord>& records) {
    std::vector<int64_t> steps;
    for (const v1::SpooledRecord& record : records) {
      if (record.has_step()) steps.push_back(record.step().step());
    }
    return steps;
  }

  TemporaryDirectory folder_;
  std::unique_ptr<FakeCoordinator> coordinator_ = std::make_unique<FakeCoordinator>();
};

TEST_F(WorkerProgramTest, RegistersReportsTrainsAndLeavesInGoodOrder) {
  auto worker = Start();
  Go();
  EXPECT_EQ(coordinator_->registration().worker_id(), "w0");
  EXPECT_EQ(coordinator_->registration().protocol_version(), 1);
  EXPECT_EQ(coordinator_->registration().device().name(), "cpu0");
  EXPECT_TRUE(coordinator_->registration().device_lock_held());
  EXPECT_EQ(coordinator_->credential(),
            "credential of " + coordinator_->registration().incarnation());
  ASSERT_TRUE(
      coordinator_->WaitForRecords([](const auto& records) { return Steps(records).size() >= 3; }));
  coordinator_->Want(Desired(v1::STAGE_EXIT));
  ASSERT_TRUE(coordinator_->WaitFor([](const v1::ObservedState& o) { return o.exited(); }));
  EXPECT_EQ(coordinator_->observed().exit_code(), 0);
  EXPECT_TRUE(coordinator_->observed().device_free());
  coordinator_->Want({});
  ASSERT_TRUE(coordinator_->WaitFor([](const v1::ObservedState& o) { return o.job_id().empty(); }));
  worker->Kill(SIGTERM);
  EXPECT_EQ(worker->Wait(), 0) << worker->Log();
  EXPECT_TRUE(coordinator_->observed().draining());
  EXPECT_TRUE(LockIsFree());
  // Steps came in order, none lost, none twice.
  const std::vector<int64_t> steps = Steps(coordinator_->records());
  for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i], static_cast<int64_t>(i) + 1);
}

TEST_F(WorkerProgramTest, ATrainerThatIgnoresItsExitOrderIsKilledAfterItsGrace) {
  auto worker = Start("ignore");
  Go();
  const int64_t trainer = coordinator_->observed().trainer_pid();
  coordinator_->Want(Desired(v1::STAGE_EXIT));
  ASSERT_TRUE(coordinator_->WaitFor([](const v1::ObservedState& o) { return o.exited(); }));
  EXPECT_EQ(coordinator_->observed().exit_code(), 137);
  EXPECT_FALSE(Exists(trainer));
  EXPECT_TRUE(WaitForLine("killed by SIGKILL (137); the agent killed it: its grace has passed"));
}

TEST_F(WorkerProgramTest, ACrashedTrainerIsReportedAndStartsAgain) {
  auto worker = Start("crash");
  Form();
  const int64_t first = coordinator_->observed().trainer_pid();
  coordinator_->Want(Desired(v1::STAGE_GO));
  ASSERT_TRUE(coordinator_->WaitFor([&](const v1::ObservedState& o) {
    return o.trainer_pid() != 0 && o.trainer_pid() != first && o.stage() == v1::STAGE_PREPARE;
  })) << "told to prepare: it has missed the generation";
  ASSERT_TRUE(coordinator_->WaitForRecords([](const auto& records) {
    return std::any_of(records.begin(), records.end(), [](const v1::SpooledRecord& record) {
      return record.event().kind() == "trainer_exited" && record.event().reason() == "exit_134";
    });
  }));
}

TEST_F(WorkerProgramTest, NothingThatATrainerPrintedIsLostWhenItEnds) {
  auto worker = Start("talk");
  Form();
  coordinator_->Want(Desired(v1::STAGE_GO));
  ASSERT_TRUE(WaitForLine("exit code 7"));
  const std::vector<std::string> lines = Lines(coordinator_->records());
  const auto end =
      std::find(lines.begin(), lines.end(), "trainer of attempt 1, rank 0: exit code 7");
  ASSERT_GT(end - lines.begin(), 2003);
  EXPECT_EQ(end[-1], "the last words");
  EXPECT_EQ(end[-2], "bytes ?? that are no text");
  EXPECT_EQ(end[-3], "line 1999 of many");
}

TEST_F(WorkerProgramTest, GarbageOnTheLinkCostsTheTrainerAndNothingElse) {
  auto worker = Start("garbage");
  Form();
  coordinator_->Want(Desired(v1::STAGE_GO));
  EXPECT_TRUE(WaitForLine("the agent killed it: it sent garbage"));
}

TEST_F(WorkerProgramTest, AProcessThatATrainerLeftBehindIsKilledBeforeTheDeviceIsFree) {
  auto worker = Start("child");
  Go();
  coordinator_->Want(Desired(v1::STAGE_EXIT));
  ASSERT_TRUE(coordinator_->WaitFor([](const v1::ObservedState& o) { return o.device_free(); }));
  worker->Kill(SIGKILL);
  worker->Wait();
  EXPECT_TRUE(Eventually([&] { return LockIsFree(); }));
}

TEST_F(WorkerProgramTest, AKilledAgentTakesItsTrainerWithItAndItsSuccessorGetsTheDevice) {
  auto worker = Start("ignore");
  Go();
  const int64_t trainer = coordinator_->observed().trainer_pid();
  const std::string incarnation = coordinator_->registration().incarnation();
  worker->Kill(SIGKILL);
  EXPECT_EQ(worker->Wait(), 137);
  EXPECT_TRUE(Eventually([&] { return !Exists(trainer); }));
  worker = Start("obey");
  Go(2);
  EXPECT_NE(coordinator_->registration().incarnation(), incarnation);
  EXPECT_NE(coordinator_->observed().trainer_pid(), trainer);
}

TEST_F(WorkerProgramTest, WhatAKilledAgentCouldNotHandInComesFromItsSuccessor) {
  coordinator_ =
      std::make_unique<FakeCoordinator>(FakeCoordinator::Options{.acknowledge_records = false});
  auto worker = Start("ignore");
  Go();
  const std::string first = coordinator_->registration().incarnation();
  ASSERT_TRUE(
      coordinator_->WaitForRecords([](const auto& records) { return Steps(records).size() >= 5; }));
  worker->Kill(SIGKILL);
  worker->Wait();
  const size_t before = coordinator_->records().size();
  // A coordinator that knows nothing of it (same port, other life) receives all of it again.
  const int port = coordinator_->port();
  coordinator_ = nullptr;
  coordinator_ =
      std::make_unique<FakeCoordinator>(FakeCoordinator::Options{.term = 2, .port = port});
  worker = Start("obey");
  ASSERT_TRUE(coordinator_->WaitForRecords([&](const auto& records) {
    return std::count_if(records.begin(), records.end(), [&](const v1::SpooledRecord& record) {
             return record.incarnation() == first;
           }) >= static_cast<ptrdiff_t>(before);
  }));
  int64_t last = 0;
  for (const v1::SpooledRecord& record : coordinator_->records()) {
    EXPECT_GT(record.number(), last);
    last = record.number();
  }
}

TEST_F(WorkerProgramTest, TrainingGoesOnWhileTheCoordinatorIsAwayAndEveryStepArrivesAfterwards) {
  auto worker = Start();
  Go();
  const int64_t trainer = coordinator_->observed().trainer_pid();
  const int64_t step = coordinator_->observed().step();
  const int port = coordinator_->port();
  std::vector<int64_t> steps = Steps(coordinator_->records());
  coordinator_ = nullptr;
  usleep(300'000);  // long enough for some steps of 50 ms
  coordinator_ =
      std::make_unique<FakeCoordinator>(FakeCoordinator::Options{.term = 2, .port = port});
  coordinator_->Want(Desired(v1::STAGE_GO));
  ASSERT_TRUE(
      coordinator_->WaitFor([&](const v1::ObservedState& o) { return o.step() > step + 5; }));
  EXPECT_EQ(coordinator_->observed().trainer_pid(), trainer);
  ASSERT_TRUE(coordinator_->WaitForRecords([&](const auto& records) {
    return !Steps(records).empty() && Steps(records).back() > step + 5;
  }));
  for (int64_t late : Steps(coordinator_->records())) steps.push_back(late);
  const std::vector<int64_t> sorted = [&] {
    std::vector<int64_t> unique = steps;
    std::sort(unique.begin(), unique.end());
    unique.erase(std::unique(unique.begin(), unique.end()), unique.end());
    return unique;
  }();
  for (size_t i = 0; i < sorted.size(); ++i) EXPECT_EQ(sorted[i], static_cast<int64_t>(i) + 1);
}

TEST_F(WorkerProgramTest, WithoutACoordinatorForTheWholeWindowTheTrainerIsStopped) {
  coordinator_ = std::make_unique<FakeCoordinator>(
      FakeCoordinator::Options{.lease_seconds = 1, .orphan_window_seconds = 2});
  auto worker = Start("ignore");
  Go();
  const int64_t trainer = coordinator_->observed().trainer_pid();
  coordinator_ = nullptr;
  EXPECT_TRUE(Eventually([&] { return !Exists(trainer); }));
}

TEST_F(WorkerProgramTest, ARefusedCredentialMeansRegisteringAgainWithTheSameIncarnation) {
  auto worker = Start();
  Go();
  const int64_t trainer = coordinator_->observed().trainer_pid();
  const std::string incarnation = coordinator_->registration().incarnation();
  coordinator_->EndSession(absl::UnauthenticatedError("credential not known"));
  EXPECT_TRUE(Eventually([&] { return coordinator_->registrations() == 2; }));
  EXPECT_EQ(coordinator_->registration().incarnation(), incarnation);
  ASSERT_TRUE(coordinator_->WaitFor(
      [&](const v1::ObservedState& o) { return o.trainer_pid() == trainer; }));
}

TEST_F(WorkerProgramTest, SigtermDrainsABusyWorker) {
  auto worker = Start();
  Go();
  worker->Kill(SIGTERM);
  ASSERT_TRUE(coordinator_->WaitFor([](const v1::ObservedState& o) { return o.draining(); }));
  EXPECT_NE(coordinator_->observed().trainer_pid(), 0);
  coordinator_->Want(Desired(v1::STAGE_EXIT));
  EXPECT_EQ(worker->Wait(), 0);
  EXPECT_TRUE(coordinator_->observed().exited());
}

TEST_F(WorkerProgramTest, ASecondSigtermDoesNotWait) {
  auto worker = Start("ignore");
  Go();
  const int64_t trainer = coordinator_->observed().trainer_pid();
  worker->Kill(SIGTERM);
  ASSERT_TRUE(coordinator_->WaitFor([](const v1::ObservedState& o) { return o.draining(); }));
  worker->Kill(SIGTERM);
  EXPECT_EQ(worker->Wait(), 0);
  EXPECT_FALSE(Exists(trainer));
}

TEST_F(WorkerProgramTest, AnotherProtocolVersionIsOneSentenceAndExitCode78) {
  coordinator_->SetRegisterStatus(
      absl::FailedPreconditionError("worker speaks protocol version 1, this coordinator 2"));
  auto worker = Start();
  EXPECT_EQ(worker->Wait(), 78);
  EXPECT_THAT(worker->Log(), HasSubstr("worker speaks protocol version 1, this coordinator 2"));
}

TEST_F(WorkerProgramTest, AnAbsentCoordinatorIsALineAndIsWaitedFor) {
  const int port = coordinator_->port();
  coordinator_ = nullptr;
  auto worker = std::make_unique<Worker>(folder_.path(), Flags(absl::StrCat("127.0.0.1:", port)));
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(worker->Log(), "trying again"); }));
  EXPECT_THAT(worker->Log(), HasSubstr(absl::StrCat("coordinator 127.0.0.1:", port)));
  coordinator_ = std::make_unique<FakeCoordinator>(FakeCoordinator::Options{.port = port});
  EXPECT_TRUE(coordinator_->WaitFor([](const v1::ObservedState&) { return true; }));
}

TEST_F(WorkerProgramTest, ADeviceThatIsHeldAPortThatIsTakenAndBadFlagsAreOneLineAndTheirExitCode) {
  auto holder = Start();
  ASSERT_TRUE(coordinator_->WaitFor([](const v1::ObservedState&) { return true; }));
  const auto run = [&](std::vector<std::string> more) {
    TemporaryDirectory folder;
    std::vector<std::string> flags = Flags(coordinator_->address());
    for (const std::string& flag : more) {
      const std::string name = flag.substr(0, flag.find('=') + 1);
      std::erase_if(flags,
                    [&](const std::string& f) { return !name.empty() && f.starts_with(name); });
      flags.push_back(flag);
    }
    Worker worker(folder.path(), flags);
    const int code = worker.Wait();
    const std::vector<std::string> lines = absl::StrSplit(worker.Log(), '\n', absl::SkipEmpty());
    std::string errors;
    for (const std::string& line : lines) {
      if (absl::StartsWith(line, "vitscale-worker: ")) absl::StrAppend(&errors, line);
    }
    return absl::StrCat(code, " ", errors);
  };
  const UniqueFd taken = *ListenTcp({"127.0.0.1", 0});
  const std::string port = absl::StrCat(*LocalPort(taken.get()));
  EXPECT_THAT(run({"--lock-wait=1ms"}),
              MatchesRegex("75 vitscale-worker: device cpu0 is held by.*"));
  EXPECT_THAT(run({"--device=cpu1", "--metrics=127.0.0.1:" + port}),
              MatchesRegex("1 .*serve /metrics on 127.0.0.1:" + port + ".*"));
  EXPECT_THAT(run({"--device=cpu1", "--metrics=0.0.0.0:0"}), MatchesRegex("78 .*not a loopback.*"));
  EXPECT_THAT(run({"--device=tpu0"}), MatchesRegex("78 .*device 'tpu0': expected cpu<i>.*"));
  EXPECT_THAT(run({"--data-root=/nowhere"}), MatchesRegex("78 .*--data-root: .*/nowhere.*"));
  EXPECT_THAT(run({"--join-secret-file=/nowhere"}), MatchesRegex("78 .*--join-secret-file.*"));
  EXPECT_THAT(run({"--trainer=/nowhere"}), MatchesRegex("78 .*trainer program.*"));
  EXPECT_THAT(run({"--worker-id=a/b"}), MatchesRegex("78 .*--worker-id 'a/b'.*"));
  EXPECT_THAT(run({"--grace=soon"}), MatchesRegex("78 .*--grace 'soon'.*"));
  EXPECT_THAT(run({"--data-address=203.0.113.9"}), MatchesRegex("78 .*--data-address: .*"));
  EXPECT_THAT(run({"--no-such-flag"}), MatchesRegex("2 .*"));
  EXPECT_THAT(run({"--threads=0"}), MatchesRegex("2 .*"));
}

TEST_F(WorkerProgramTest, AWorkerWithoutARootSaysWhichJobsCanRunThere) {
  const auto log_without = [&](const std::vector<std::string>& roots) {
    std::vector<std::string> flags = Flags(coordinator_->address());
    std::erase_if(flags, [&](const std::string& flag) {
      return std::any_of(roots.begin(), roots.end(),
                         [&](const std::string& root) { return flag.starts_with(root + "="); });
    });
    const TemporaryDirectory folder;
    Worker worker(folder.path(), flags);
    EXPECT_TRUE(Eventually([&] { return absl::StrContains(worker.Log(), ", metrics "); }));
    worker.Kill(SIGTERM);
    EXPECT_EQ(worker.Wait(), 0) << worker.Log();
    return worker.Log();
  };
  EXPECT_THAT(log_without({}), Not(HasSubstr("-root")));
  EXPECT_THAT(log_without({"--data-root"}),
              HasSubstr("worker w0 has no --data-root: only jobs with synthetic images can run"));
  for (const auto& roots : std::vector<std::vector<std::string>>{
           {"--checkpoint-root"}, {"--checkpoint-root", "--data-root"}}) {
    EXPECT_THAT(log_without(roots),
                HasSubstr("worker w0 has no --checkpoint-root: no job can run here"));
  }
}

TEST_F(WorkerProgramTest, MetricsShowTheTrainerAndTheWorker) {
  auto worker = Start();
  Go();
  const auto scrape = [&]() -> std::string {
    const auto address = ParseAddress(coordinator_->registration().metrics_address());
    const auto fd = Connect(*address, absl::Seconds(5));
    if (!fd.ok()) return "";
    (void)WriteAll(fd->get(), "GET /metrics HTTP/1.0\r\n\r\n", absl::Seconds(5));
    std::string text;
    char chunk[4096];
    for (ssize_t got; (got = read(fd->get(), chunk, sizeof(chunk))) > 0;) {
      text.append(chunk, static_cast<size_t>(got));
    }
    return text;
  };
  std::string text;
  EXPECT_TRUE(Eventually([&] {  // its first step and its stage come by different messages
    text = scrape();
    return absl::StrContains(text, "vitscale_train_images_total{job_name=\"fake\",rank=\"0\"}") &&
           absl::StrContains(text, "vitscale_worker_stage{stage=\"go\"} 1");
  }));
  for (const char* series :
       {"vitscale_train_step_seconds_bucket{job_name=\"fake\",phase=\"all\",rank=\"0\",le=\"0."
        "01\"}",
        "vitscale_train_goodput_seconds_total{job_name=\"fake\",rank=\"0\",state=\"productive\"}",
        "# TYPE vitscale_allreduce_bytes_total counter\n"
        "vitscale_allreduce_bytes_total{algorithm=\"gloo_ring\",job_name=\"fake\",rank=\"0\"} "
        "1024\n",
        "vitscale_worker_connected 1", "vitscale_worker_stage{stage=\"go\"} 1",
        "vitscale_worker_trainer_starts_total 1", "process_resident_memory_bytes ",
        "vitscale_build_info{"}) {
    EXPECT_THAT(text, HasSubstr(series));
  }
  // The job leaves, and its series with it.
  coordinator_->Want({});
  EXPECT_TRUE(Eventually([&] {
    const std::string left = scrape();
    return !absl::StrContains(left, "vitscale_train_") &&
           !absl::StrContains(left, "vitscale_allreduce_");
  }));
}

}  // namespace
}  // namespace vitscale::agent
