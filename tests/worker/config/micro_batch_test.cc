#include "worker/config/micro_batch.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/spec/job_spec.h"
#include "tests/status_matchers.h"
#include "worker/config/job_config.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr int64_t kGiB = int64_t{1} << 30;

constexpr char kJob[] = R"yaml(
name: small
resources: {workers: {min: 2, max: 2}}
model: {variant: S/16, classes: 1000}
data: {train: {format: synthetic, synthetic_images: 4096}}
optimizer: {lr: 1e-3}
schedule: {total: 10 epochs}
batch: {global: 512}
)yaml";

JobConfig Job(const std::vector<std::string>& set = {}) {
  auto job = ParseJobConfig(kJob, "job.yaml", set);
  EXPECT_THAT(job, IsOk());
  return *job;
}

DeviceLimits Cpu(int64_t memory, int threads = 4, bool bf16 = false) {
  return {DeviceKind::kCpu, "some CPU", memory, threads, bf16};
}
DeviceLimits Card(int64_t memory, const std::string& model = "NVIDIA H100 80GB HBM3") {
  return {DeviceKind::kCuda, model, memory, 8, true};
}

// The micro-batch for these workers.
int64_t Choice(const std::vector<DeviceLimits>& workers, const std::vector<std::string>& set = {}) {
  const auto fixed = FixMicroBatch(Job(set).canonical_bytes, workers);
  EXPECT_THAT(fixed, IsOk());
  if (!fixed.ok()) return -1;
  return JobConfigFromCanonical(fixed->spec_bytes)->batch_micro;
}

// As the engine decides it on that device once the job is there.
bool Runs(int64_t micro, const DeviceLimits& device, Precision precision) {
  PlanRequest request = PlanRequestFor(Job(), precision);
  request.batch_micro = micro;
  request.device = device.kind;
  request.threads = device.threads;
  request.recompute = *ChooseRecompute(request, device.memory_bytes);
  request.packing = *ChoosePacking(request, device.memory_bytes);
  return CheckFits(*MakePlan(request), device.memory_bytes).ok();
}
bool Runs(int64_t micro, const DeviceLimits& device) {
  return Runs(micro, device, Precision::kF32) && Runs(micro, device, Precision::kBf16);
}

TEST(FixMicroBatchTest, AGivenOneStays) {
  const JobConfig job = Job({"batch.micro=8"});
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FixedSpec fixed,
                                FixMicroBatch(job.canonical_bytes, {Card(kGiB)}));
  EXPECT_EQ(fixed.spec_bytes, job.canonical_bytes);
  EXPECT_EQ(fixed.planned_for, "batch.micro 8 is as given");
}

TEST(FixMicroBatchTest, WhereNoWorkerIsKnownNothingLimitsIt) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FixedSpec fixed, FixMicroBatch(Job().canonical_bytes, {}));
  EXPECT_EQ(JobConfigFromCanonical(fixed.spec_bytes)->batch_micro, kMicroBatchMax);
  EXPECT_THAT(fixed.planned_for, HasSubstr("batch.micro 256 is as large as helps: no worker"));
  EXPECT_EQ(Choice({}, {"resources.device=cuda"}), kMicroBatchMax);
}

TEST(FixMicroBatchTest, TheChoiceStandsInTheCanonicalSpecAndLeavesTheRestAsItIs) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FixedSpec fixed,
                                FixMicroBatch(Job().canonical_bytes, {Card(4 * kGiB)}));
  const int micro = JobConfigFromCanonical(fixed.spec_bytes)->batch_micro;
  ASSERT_GT(micro, 0);
  EXPECT_EQ(fixed.spec_bytes, Job({absl::StrCat("batch.micro=", micro)}).canonical_bytes);
  EXPECT_EQ(512 / micro % 2, 0) << "both workers get as many";
}

TEST(FixMicroBatchTest, WhereOnlyCardsAreTheirMemoryAndTheirFormulasDecide) {
  for (const int64_t memory : {2 * kGiB, 3 * kGiB, 5 * kGiB}) {
    const int64_t micro = Choice({Card(memory)});
    EXPECT_TRUE(Runs(micro, Card(memory), Precision::kBf16)) << HumanBytes(memory);
    EXPECT_EQ(micro, Choice({Card(memory)}, {"resources.device=cuda"})) << HumanBytes(memory);
  }
  // The same memory holds another one on the CPU, which keeps staged input and a second copy of the
  // state there, and recomputes by default.
  bool differs = false;
  for (int64_t memory = kGiB; memory <= 4 * kGiB && !differs; memory += kGiB / 4) {
    differs = Choice({Cpu(memory, 1, true)}) != Choice({Card(memory)});
  }
  EXPECT_TRUE(differs);
}

TEST(FixMicroBatchTest, AJobThatMayBePlacedOnEitherKindFitsBoth) {
  for (const auto& [cpu, card] : {std::pair{2 * kGiB, 80 * kGiB}, std::pair{64 * kGiB, 3 * kGiB},
                                  std::pair{kGiB, kGiB * 3 / 2}}) {
    const int64_t micro = Choice({Cpu(cpu), Card(card)});
    EXPECT_TRUE(Runs(micro, Cpu(cpu))) << HumanBytes(cpu);
    EXPECT_TRUE(Runs(micro, Card(card))) << HumanBytes(card);
    EXPECT_LE(micro, Choice({Cpu(cpu)}));
    EXPECT_LE(micro, Choice({Card(card)}));
  }
}

TEST(FixMicroBatchTest, TheSmallestOfAKindDecidesWhateverTheOrder) {
  std::vector<DeviceLimits> workers = {Card(40 * kGiB), Cpu(64 * kGiB), Card(3 * kGiB),
                                       Cpu(2 * kGiB), Cpu(0)};
  const int64_t expected = Choice({Card(3 * kGiB), Cpu(2 * kGiB)});
  for (size_t turn = 0; turn < 2 * workers.size(); ++turn) {
    if (turn == workers.size()) std::reverse(workers.begin(), workers.end());
    std::rotate(workers.begin(), workers.begin() + 1, workers.end());
    VITSCALE_ASSERT_OK_AND_ASSIGN(const FixedSpec fixed,
                                  FixMicroBatch(Job().canonical_bytes, workers));
    EXPECT_EQ(JobConfigFromCanonical(fixed.spec_bytes)->batch_micro, expected);
    EXPECT_EQ(fixed.planned_for,
              absl::StrCat("batch.micro ", expected,
                           " fits 3 cpu workers (2 GiB) and 2 cuda workers (NVIDIA H100 80GB HBM3, "
                           "3 GiB)"));
  }
}

TEST(FixMicroBatchTest, OnlyPrecisionsThatTheJobMayGetCount) {
  const auto in = [](const char* precision, const DeviceLimits& card) {
    return Choice({card}, {absl::StrCat("precision=", precision)});
  };
  DeviceLimits card = Card(kGiB);
  while (in("f32", card) >= in("bf16", card)) {  // until activations decide, not who is content
    card.memory_bytes += kGiB / 8;
    ASSERT_LT(card.memory_bytes, 8 * kGiB);
  }
  EXPECT_EQ(Choice({card}), in("bf16", card)) << "cards alone resolve auto to bf16";
  EXPECT_EQ(Choice({card, Cpu(64 * kGiB, 4, true)}), in("bf16", card));
  const int64_t either = Choice({card, Cpu(64 * kGiB)});
  EXPECT_EQ(either, in("f32", card)) << "begun on that CPU it stays in f32";
  EXPECT_TRUE(Runs(either, card));
  EXPECT_EQ(Choice({card}, {"from=runs/abcdefghijkl/a0001.g0001.step_000000004"}), either)
      << "it may have to keep the precision of the run that it begins from";
}

TEST(FixMicroBatchTest, ThreadsOfACpuHaveTheirScratch) {
  int64_t memory = kGiB;
  while (Choice({Cpu(memory, 1)}) == Choice({Cpu(memory, 64)})) {
    memory += kGiB / 16;
    ASSERT_LT(memory, 16 * kGiB) << "64 threads take more than one";
  }
  const int64_t many = Choice({Cpu(memory, 64)});
  EXPECT_TRUE(Runs(many, Cpu(memory, 64)));
  EXPECT_EQ(Choice({Cpu(memory, 1), Cpu(memory, 64)}), many);
  EXPECT_EQ(Choice({Cpu(memory + kGiB, 64), Cpu(memory, 1), Cpu(memory, 64)}), many);
}

TEST(FixMicroBatchTest, WhatDoesNotFitNamesTheWorkersTheSmallestChangeAndTheKindThatFits) {
  const auto refused = [](const std::vector<DeviceLimits>& workers,
                          const std::vector<std::string>& set = {}) {
    const auto fixed = FixMicroBatch(Job(set).canonical_bytes, workers);
    EXPECT_THAT(fixed, StatusIs(absl::StatusCode::kResourceExhausted));
    return std::string(fixed.status().message());
  };
  const std::vector<std::string> large = {"model.variant=L/16"};
  const std::string cpu = refused({Cpu(2 * kGiB), Card(80 * kGiB)}, large);
  EXPECT_THAT(cpu, HasSubstr("1 cpu worker (2 GiB): plan needs"));
  EXPECT_THAT(cpu, HasSubstr("smallest change that fits: a smaller model, or a worker with"));
  EXPECT_THAT(cpu, HasSubstr("; or resources.device cuda, which fits 1 cuda worker (NVIDIA H100 "
                             "80GB HBM3, 80 GiB)"));
  const std::string card = refused({Cpu(64 * kGiB), Card(2 * kGiB, "NVIDIA A10")}, large);
  EXPECT_THAT(card, AllOf(HasSubstr("1 cuda worker (NVIDIA A10, 2 GiB): plan needs"),
                          HasSubstr("or a card with"), HasSubstr("; or resources.device cpu")));
  EXPECT_THAT(refused({Cpu(kGiB), Card(kGiB)}, large), Not(HasSubstr("resources.device")))
      << "it fits neither";
  EXPECT_THAT(refused({Card(kGiB)}, {"model.variant=L/16", "resources.device=cuda"}),
              Not(HasSubstr("resources.device")));
}

TEST(FixMicroBatchTest, ManyModelsOfCardsAreCounted) {
  std::vector<DeviceLimits> workers;
  for (int i = 0; i < 1000; ++i)
    workers.push_back(Card(80 * kGiB + i, absl::StrCat("card ", i % 7)));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FixedSpec fixed,
                                FixMicroBatch(Job().canonical_bytes, workers));
  EXPECT_THAT(fixed.planned_for, AllOf(HasSubstr("143 cuda workers (card 0, 80 GiB) and"),
                                       HasSubstr(" and 3 more models")));
}

}  // namespace
}  // namespace vitscale
