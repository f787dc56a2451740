// vitscale-train as a process, alone or as one of two ranks, with a folder of its own.

#ifndef TESTS_WORKER_TRAINER_PROGRAMS_FIXTURE_H_
#define TESTS_WORKER_TRAINER_PROGRAMS_FIXTURE_H_

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/child_process.h"
#include "tests/worker/trainer/test_gang.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/trainer/standalone.h"

namespace vitscale {

inline constexpr char kShort[] = "--set=schedule.warmup=1 steps";  // of runs of a few steps

class ProgramsTest : public ::testing::Test {
 protected:
  ProgramsTest() {
    std::ofstream(Path("job.yaml")) << TinyJob({{"checkpoint", "{dir: runs, every: 15 steps}"}});
  }

  std::string Path(const std::string& name) const {
    return absl::StrCat(folder_.path(), "/", name);
  }

  std::vector<std::string> Arguments(const std::string& root, int rank, int ranks,
                                     const std::string& faults = "") {
    std::vector<std::string> arguments = {VITSCALE_TRAIN,
                                          Path("job.yaml"),
                                          absl::StrCat("--checkpoint-root=", root),
                                          absl::StrCat("--data-root=", root),
                                          absl::StrCat("--rank=", rank),
                                          absl::StrCat("--world-size=", ranks),
                                          absl::StrCat("--rendezvous=", root, "/rendezvous"),
                                          "--threads=1"};
    if (rank == 0) arguments.push_back(absl::StrCat("--steps-csv=", root, "/steps.csv"));
    if (!faults.empty()) arguments.push_back(absl::StrCat("--faults=", faults));
    return arguments;
  }
  // Both ranks until they end; exit codes.
  std::pair<int, int> TrainTwo(const std::string& root, const std::string& faults_of_1 = "") {
    ChildProcess zero(Arguments(root, 0, 2), root + "/r0.log");
    ChildProcess one(Arguments(root, 1, 2, faults_of_1), root + "/r1.log");
    const int second = one.Wait();
    return {zero.Wait(), second};
  }
  // One rank alone, with a new log.
  int TrainOne(const std::string& root, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = Arguments(root, 0, 1);
    for (const std::string& flag : more) {
      if (absl::StartsWith(flag, "--steps-csv")) arguments.erase(arguments.end() - 1);
      arguments.push_back(flag);
    }
    (void)PosixFileSystem().Remove(root + "/log");
    return ChildProcess(arguments, root + "/log").Wait();
  }
  std::string MakeRoot(const std::string& name) {
    EXPECT_THAT(PosixFileSystem().MakeDirectory(Path(name)), IsOk());
    return Path(name);
  }
  std::string NewestId(const std::string& root) {
    const auto store =
        CheckpointStore::Open(PosixFileSystem(), root + "/runs", StandaloneJobId("tiny"));
    const auto usable = store->Usable();
    return usable.ok() && !usable->empty() ? usable->front().id : "";
  }

  const TemporaryDirectory folder_;
};

}  // namespace vitscale

#endif  // TESTS_WORKER_TRAINER_PROGRAMS_FIXTURE_H_
