// Ranks as processes, each with a device of its own.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_on_cpu/device_buffer.h"
#include "tests/cuda_on_cpu/nccl/nccl_gang.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::Buffer;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int kCount = 1000;

struct Process {
  pid_t pid = -1;
  int output = -1;
};

// A process for every rank; `body` gives what it writes to the test.
std::vector<Process> Fork(int ranks, const NcclGang& gang,
                          const std::function<std::string(Collective&)>& body) {
  std::vector<Process> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    int ends[2];
    VITSCALE_CHECK(pipe(ends) == 0);
    const pid_t pid = fork();
    if (pid == 0) {
      cuda_on_cpu::SetDeviceCount(kDevices);
      VITSCALE_CHECK(cudaSetDevice(rank) == cudaSuccess);
      const auto collective = gang.Make(rank);
      const absl::Status connected = collective->Connect(kLong);
      const std::string text = connected.ok() ? body(*collective) : connected.ToString();
      VITSCALE_CHECK(write(ends[1], text.data(), text.size()) >= 0);
      _exit(0);
    }
    close(ends[1]);
    processes.push_back({pid, ends[0]});
  }
  return processes;
}

std::string Await(const Process& process) {
  std::string text(1 << 12, '\0');
  const ssize_t n = read(process.output, text.data(), text.size());
  text.resize(n < 0 ? 0 : n);
  close(process.output);
  waitpid(process.pid, nullptr, 0);
  return text;
}

TEST(NcclProcessesTest, RanksAsProcessesHaveTheSumsOfAll) {
  const NcclGang gang(3);
  const auto processes = Fork(3, gang, [](Collective& collective) -> std::string {
    std::vector<float> values(kCount);
    for (int i = 0; i < kCount; ++i) values[i] = static_cast<float>(i * (collective.rank() + 1));
    const Buffer<float> bucket(values);
    for (int step = 1; step <= 2; ++step) {
      collective.Start(0, absl::MakeSpan(bucket.get(), kCount));
      const auto records = collective.ExchangeRecords(RecordOf(collective, step), kLong);
      if (!records.ok()) return records.status().ToString();
    }
    const std::vector<float> sums = bucket.Values();  // 6 i, then 3 times that
    return absl::StrCat(sums[1], " ", sums[kCount - 1]);
  });
  std::vector<std::string> outputs;
  for (const Process& process : processes) outputs.push_back(Await(process));
  EXPECT_THAT(outputs, Each(absl::StrCat(18, " ", 18 * (kCount - 1))));
}

TEST(NcclProcessesTest, AKilledRankFailsTheOthersAndIsSuspected) {
  const NcclGang gang(3);
  const auto processes = Fork(3, gang, [](Collective& collective) -> std::string {
    // Never freed: it must outlive the abort.
    const auto& bucket = *new Buffer<float>(std::vector<float>(kCount, 1.0f));
    for (int step = 1;; ++step) {
      if (collective.rank() == 1 && step == 3) raise(SIGKILL);
      collective.Start(0, absl::MakeSpan(bucket.get(), kCount));
      const auto records =
          collective.ExchangeRecords(RecordOf(collective, step), absl::InfiniteDuration());
      if (records.ok()) continue;
      return absl::StrCat(records.status().ToString(), " in step ", step,
                          ", suspects some: ", !collective.suspects().empty());
    }
  });
  EXPECT_EQ(Await(processes[1]), "");
  for (const int rank : {0, 2}) {
    EXPECT_THAT(Await(processes[rank]), AllOf(HasSubstr("UNAVAILABLE"), HasSubstr(" in step 3"),
                                              HasSubstr("suspects some: 1")));
  }
}

}  // namespace
}  // namespace vitscale::cuda
