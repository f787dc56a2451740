// Whole trainers as threads: real model, real sums over sockets, real files.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/test_gang.h"
#include "worker/plan/plan.h"
#include "worker/trainer/engine/deal.h"
#include "worker/trainer/engine/faults.h"

namespace vitscale {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kFinal60[] = "job000000000/a0001.g0001.step_000000060";

TestGang::Options With(const TemporaryDirectory& folder, int ranks,
                       const std::map<std::string, std::string>& job = {}) {
  TestGang::Options options;
  options.job = TinyJob(job);
  options.ranks = ranks;
  options.checkpoint_root = folder.path();
  return options;
}

TEST(TrainerTest, OneRankTrainsEvaluatesSavesAndLeaves) {
  const TemporaryDirectory folder;
  const auto results = RunGang(With(
      folder, 1,
      {{"evals",
        "[{name: val, data: {format: synthetic, synthetic_images: 100}, every: 25 steps}]"},
       {"schedule", "{name: rsqrt, warmup: 5 steps, timescale: 100 steps, total: 60 steps}"}}));
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  const auto steps = RecordsOf<link::StepRecord>(results[0]);
  ASSERT_THAT(steps, SizeIs(60));
  EXPECT_LT(steps.back().loss, 0.8 * steps.front().loss) << "it learns";
  EXPECT_EQ(steps[0].learning_rate, 0) << "the first step has factor 0";
  EXPECT_GT(steps[9].gradient_norm, 0);
  for (const char* phase : {"input", "forward", "backward", "allreduce_exposed", "optimizer"}) {
    EXPECT_TRUE(steps[0].phase_seconds.contains(phase)) << phase;
  }
  const auto evals = RecordsOf<link::EvalRecord>(results[0]);
  ASSERT_THAT(evals, SizeIs(3));
  EXPECT_EQ(evals[2].step, 60);
  EXPECT_TRUE(evals[2].final);
  EXPECT_EQ(evals[2].eval_images, 100);
  EXPECT_EQ(results[0].observed.checkpoint, kFinal60);
  EXPECT_THAT(RecordsOf<link::CheckpointInfo>(results[0]), Not(IsEmpty()));
}

// Key biases have no true gradient (softmax is invariant to them): an adaptive optimizer turns
// their rounding noise into steps of full size. They cannot change the loss, so losses are compared
// and parameters are not.
TEST(TrainerTest, TwoRanksOfHalfTheBatchSeeTheSameSamplesAndLossesAsOneRank) {
  const std::map<std::string, std::string> job = {
      {"batch", "{global: 256, micro: 128}"},
      {"schedule", "{name: rsqrt, warmup: 50 steps, total: 50 steps}"},
      {"evals",
       "[{name: val, data: {format: synthetic, "
       "synthetic_images: 77}}]"}};
  const TemporaryDirectory one, two;
  TestGang single(With(one, 1, job)), pair(With(two, 2, job));
  const auto a = single.Run(), b = pair.Run();
  ASSERT_EQ(a[0].exit_code, 0) << a[0].error;
  ASSERT_EQ(b[0].exit_code, 0) << b[0].error;
  EXPECT_THAT(single.samples(), SizeIs(50));
  EXPECT_EQ(single.samples(), pair.samples());
  const auto steps_a = RecordsOf<link::StepRecord>(a[0]),
             steps_b = RecordsOf<link::StepRecord>(b[0]);
  ASSERT_THAT(steps_a, SizeIs(50));
  ASSERT_THAT(steps_b, SizeIs(50));
  for (int i = 0; i < 50; ++i) {
    EXPECT_NEAR(steps_b[i].loss / steps_a[i].loss, 1, 1e-5) << "step " << i + 1;
    EXPECT_EQ(steps_b[i].learning_rate, steps_a[i].learning_rate);
    EXPECT_EQ(steps_b[i].images, steps_a[i].images);
  }
  EXPECT_THAT(RecordsOf<link::StepRecord>(b[1]), IsEmpty());
  EXPECT_THAT(steps_b[0].arrival_skew_seconds, SizeIs(2));
}

// What all ranks tell each other before the first step and after the last is the same in both runs.
TEST(TrainerTest, EveryStepHandsItsGradientsAndOneRecordToTheSumsAndNoBreakForgetsThem) {
  const TemporaryDirectory folder;
  const auto bytes_of = [&](int steps, const std::string& fault, int rank) {
    TestGang::Options options = With(
        folder, 2,
        {{"batch", "{global: 64, micro: 16}"},
         {"schedule", absl::StrCat("{name: rsqrt, warmup: 1 steps, timescale: 10 steps, total: ",
                                   steps, " steps}")}});
    options.job_id = absl::StrCat("job", steps, fault.empty() ? "whole" : "cut");
    options.faults[1] = fault;
    options.recoveries_max = 1;
    const auto result = RunGang(options)[rank];
    EXPECT_EQ(result.exit_code, 0) << result.error;
    EXPECT_THAT(result.metrics.collective_bytes_total, SizeIs(1));
    const auto counted = result.metrics.collective_bytes_total.find("shared_memory_in_order");
    return counted != result.metrics.collective_bytes_total.end() ? counted->second : 0;
  };
  const auto job = ParseJobConfig(TinyJob({{"batch", "{global: 64, micro: 16}"}}), "tiny.yaml", {});
  ASSERT_THAT(job, IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Plan plan, MakePlan(PlanRequestFor(*job, Precision::kF32)));
  int64_t of_a_step = sizeof(ControlRecord);
  for (const Bucket& bucket : plan.layout.buckets) of_a_step += bucket.bytes;
  const int64_t nine = bytes_of(9, "", 1);
  EXPECT_EQ(nine - bytes_of(5, "", 1), 4 * of_a_step);
  EXPECT_GE(bytes_of(9, "fail_collective@step=6", 0), 9 * of_a_step);
}

// A label with the host of each rank would have a value for each set of members.
TEST(TrainerTest, TheBytesOfSumsAreCountedByWhatCarriesThemWhoeverSharesAHost) {
  const auto carriers_of = [](const std::map<int, uint64_t>& hosts) {
    const TemporaryDirectory folder;
    TestGang::Options options =
        With(folder, static_cast<int>(hosts.size()),
             {{"batch", "{global: 64, micro: 16}"},
              {"schedule", "{name: rsqrt, warmup: 1 steps, timescale: 10 steps, total: 3 steps}"}});
    options.hosts = hosts;
    const auto result = RunGang(options).back();
    EXPECT_EQ(result.exit_code, 0) << result.error;
    std::vector<std::string> carriers;
    for (const auto& [name, bytes] : result.metrics.collective_bytes_total) {
      carriers.push_back(name);
    }
    return carriers;
  };
  EXPECT_THAT(carriers_of({{0, 1}, {1, 1}, {2, 2}}),
              ElementsAre("shared_memory_in_order, gloo_ring"));
  EXPECT_THAT(carriers_of({{0, 1}, {1, 2}}), ElementsAre("gloo_ring"));
  EXPECT_THAT(carriers_of({{0, 0}}), IsEmpty()) << "a rank alone tells nobody anything";
}

TEST(TrainerTest, AStopSavesAndTheResumedRunEqualsTheUninterruptedOneBitForBit) {
  const TemporaryDirectory whole, cut;
  ASSERT_EQ(RunGang(With(whole, 2))[0].exit_code, 0);

  TestGang::Options options = With(cut, 2);
  options.job = TinyJob({{"checkpoint", "{dir: runs, every: 1000 steps}"}});
  {
    TestGang gang(options);
    std::thread stopper([&] { gang.SetIntent(link::Intent::kPause); });
    const auto results = gang.Run();
    stopper.join();
    for (const auto& result : results) {
      // The stop may come before there is anything to save, or after everything is done.
      EXPECT_THAT(result.exit_code, ::testing::AnyOf(0, 75, 76)) << result.error;
      EXPECT_EQ(result.exit_code, results[0].exit_code);
      EXPECT_EQ(result.observed.step, results[0].observed.step);
    }
  }
  options.attempt = 2;
  const auto results = RunGang(options);
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  EXPECT_EQ(ReadCheckpoint(cut.path(), results[0].observed.checkpoint),
            ReadCheckpoint(whole.path(), kFinal60));
}

TEST(TrainerTest, ACollectiveFailureAtAnyBucketChangesNothingAndTheSurvivorsRecoverInPlace) {
  const TemporaryDirectory whole;
  TestGang::Options plain =
      With(whole, 2, {{"schedule", "{name: rsqrt, warmup: 5 steps, total: 16 steps}"}});
  plain.bucket_bytes = 16 << 10;
  ASSERT_EQ(RunGang(plain)[0].exit_code, 0);
  const auto want = ReadCheckpoint(whole.path(), "job000000000/a0001.g0001.step_000000016");

  int buckets = 0;
  for (int bucket = 0; bucket < 64; ++bucket) {
    const TemporaryDirectory folder;
    TestGang::Options options = plain;
    options.checkpoint_root = folder.path();
    options.recoveries_max = 1;
    options.faults[bucket % 2] = absl::StrCat("fail_collective@step=13,bucket=", bucket);
    TestGang gang(options);
    const auto results = gang.Run();
    ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
    ASSERT_EQ(results[1].exit_code, 0) << results[1].error;
    if (gang.broken_versions().empty()) break;  // there is no such bucket
    ++buckets;
    ASSERT_THAT(gang.broken_versions(), SizeIs(1));
    for (const link::StateVersion& version : gang.broken_versions()[0]) {
      EXPECT_EQ(version.step, 12) << "neither rank applied the step, bucket " << bucket;
      EXPECT_EQ(version.established_generation, 1);
    }
    EXPECT_EQ(ReadCheckpoint(folder.path(), "job000000000/a0001.g0002.step_000000016"), want)
        << "bucket " << bucket;
  }
  EXPECT_GE(buckets, 4);
}

int CountEntries(const std::string& folder) {
  return static_cast<int>(PosixFileSystem().List(folder)->size());
}

TEST(TrainerTest, TwentyBrokenGenerationsInOneProcessLeaveNoDescriptorAndNoThreadBehind) {
  constexpr int kFailures = 20;
  const TemporaryDirectory folder;
  TestGang::Options options = With(folder, 2);
  options.recoveries_max = kFailures;
  for (int i = 0; i < kFailures; ++i) {
    absl::StrAppend(&options.faults[i % 2], "fail_collective@generation=", i + 1, ",step=", 12 + i,
                    ";");
  }
  TestGang gang(options);
  // The most there were while a generation lived: what is left behind adds up.
  std::map<int64_t, std::pair<int, int>> most;
  std::atomic<bool> done{false};
  std::thread watch([&] {
    while (!done) {
      auto& [fds, threads] = most[gang.generation()];
      fds = std::max(fds, CountEntries("/proc/self/fd"));
      threads = std::max(threads, CountEntries("/proc/self/task"));
      absl::SleepFor(absl::Milliseconds(1));
    }
  });
  const auto results = gang.Run();
  done = true;
  watch.join();
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  ASSERT_THAT(gang.broken_versions(), SizeIs(kFailures));
  const auto early = std::max({most[2], most[3], most[4], most[5]});
  const auto late = most[kFailures + 1];
  // One descriptor kept per generation would be 16 more.
  EXPECT_LE(late.first, early.first + 8);
  EXPECT_LE(late.second, early.second + 8);
}

TEST(TrainerTest, ANonFiniteGradientOnOneRankIsSeenByAllAlikeAndNothingIsSavedAfterIt) {
  for (const char* action : {"nan", "nan_loss"}) {
    const TemporaryDirectory folder;
    TestGang::Options options = With(folder, 2);
    options.faults[1] = absl::StrCat(action, "@step=15");
    const auto results = RunGang(options);
    for (const auto& result : results) {
      EXPECT_EQ(result.exit_code, 81) << action;
      EXPECT_THAT(result.error, HasSubstr("step 15"));
    }
    const auto steps = RecordsOf<link::StepRecord>(results[0]);
    ASSERT_THAT(steps, SizeIs(15));
    EXPECT_TRUE(steps.back().skipped);
    EXPECT_EQ(steps.back().update_norm, 0) << action;
    const auto saved = RecordsOf<link::CheckpointInfo>(results[0]);
    for (const link::CheckpointInfo& checkpoint : saved) EXPECT_EQ(checkpoint.step, 10);
  }
}

TEST(TrainerTest, PolicySkipLeavesTheStateAsItWasForThatStep) {
  const TemporaryDirectory folder;
  TestGang::Options options = With(folder, 2, {{"on_divergence", "{policy: skip, max: 2}"}});
  options.faults[0] = "nan@step=15;nan_loss@step=16";
  const auto results = RunGang(options);
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  const auto steps = RecordsOf<link::StepRecord>(results[0]);
  ASSERT_THAT(steps, SizeIs(60));
  EXPECT_TRUE(steps[14].skipped);
  EXPECT_TRUE(steps[15].skipped);
  EXPECT_FALSE(steps[16].skipped);
  EXPECT_TRUE(std::isfinite(steps[59].loss));
}

TEST(TrainerTest, ACheckpointFolderThatIsNotSharedIsAConfigurationErrorNamingTheWorkers) {
  const TemporaryDirectory here, there;
  TestGang::Options options = With(here, 2);
  options.checkpoint_roots = {here.path(), there.path()};
  const auto results = RunGang(options);
  for (const auto& result : results) {
    EXPECT_EQ(result.exit_code, 78);
    EXPECT_THAT(result.error,
                HasSubstr("checkpoint.dir 'runs' is not shared between workers w0 and w1"));
  }
}

TEST(TrainerTest, ADamagedCheckpointIsSetAsideAndTheOneBeforeItTaken) {
  const TemporaryDirectory folder;
  TestGang::Options options = With(folder, 2);
  const auto first = RunGang(options);
  ASSERT_EQ(first[0].exit_code, 0);
  int64_t before = 0;  // mostly 50; a save is passed over while the one before it is written
  for (const auto& checkpoint : RecordsOf<link::CheckpointInfo>(first[0]))
    if (checkpoint.step < 60) before = std::max(before, checkpoint.step);
  ASSERT_GT(before, 0);
  const std::string part =
      absl::StrCat(folder.path(), "/runs/", kFinal60, "/part-00001-of-00002.safetensors");
  FILE* file = fopen(part.c_str(), "r+b");
  ASSERT_NE(file, nullptr);
  fseek(file, -5, SEEK_END);
  const int byte = fgetc(file);
  fseek(file, -5, SEEK_END);
  fputc(byte ^ 1, file);
  fclose(file);

  options.attempt = 2;
  options.recoveries_max = 1;
  TestGang gang(options);
  const auto results = gang.Run();
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  EXPECT_EQ(RecordsOf<link::StepRecord>(results[0]).front().step, before + 1);
  EXPECT_EQ(results[0].observed.checkpoint, "job000000000/a0002.g0002.step_000000060");
  EXPECT_THAT(PosixFileSystem().Stat(
                  absl::StrCat(folder.path(), "/runs/job000000000/bad.a0001.g0001.step_000000060")),
              IsOk());
}

// A whole checkpoint of another job file is not damage: nobody may move it.
TEST(TrainerTest, ACheckpointOfAnotherModelSeedOrBatchIsAConfigurationErrorAndStaysWhereItIs) {
  const TemporaryDirectory folder;
  TestGang::Options options =
      With(folder, 1, {{"schedule", "{name: rsqrt, warmup: 5 steps, total: 10 steps}"}});
  ASSERT_EQ(RunGang(options)[0].exit_code, 0);
  const std::string longer = "{name: rsqrt, warmup: 5 steps, total: 20 steps}";
  const auto model = [](int width, int depth) {
    return absl::StrCat("{custom: {patch: 7, width: ", width, ", depth: ", depth,
                        ", heads: 2, mlp_width: 64}, image_size: 28, channels: 1, pool: map, "
                        "classes: 10, loss: sigmoid, head_bias: -2.2}");
  };
  const std::vector<std::map<std::string, std::string>> others = {
      {{"model", model(64, 2)}}, {{"model", model(32, 3)}},
      {{"model", model(32, 1)}}, {{"optimizer", "{name: sgd, lr: 1e-3}"}},
      {{"seed", "2"}},           {{"batch", "{global: 32}"}}};
  for (auto other : others) {
    const std::string changed = absl::StrCat(other.begin()->first, ": ", other.begin()->second);
    other["schedule"] = longer;
    options.attempt = 2;
    options.job = TinyJob(other);
    options.recoveries_max = 3;
    const auto results = RunGang(options);
    EXPECT_EQ(results[0].exit_code, 78) << changed << ": " << results[0].error;
    EXPECT_THAT(results[0].error, HasSubstr("give this job another name or checkpoint.dir"));
  }
  options.job = TinyJob({{"schedule", longer}});
  const auto results = RunGang(options);
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  EXPECT_EQ(RecordsOf<link::StepRecord>(results[0]).front().step, 11);
}

TEST(TrainerTest, AFailedPartIsReportedAndTrainingGoesOn) {
  const TemporaryDirectory folder;
  TestGang::Options options = With(folder, 2);
  // The first save: a later one waits for the one before, and may be of another step.
  options.faults[1] = "fail_storage@snapshot,step=10";
  const auto results = RunGang(options);
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  const auto events = RecordsOf<link::Event>(results[1]);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].kind, "checkpoint_failed");
  for (const auto& checkpoint : RecordsOf<link::CheckpointInfo>(results[0]))
    EXPECT_NE(checkpoint.step, 10);
  EXPECT_FALSE(
      PosixFileSystem()
          .Stat(absl::StrCat(folder.path(), "/runs/job000000000/a0001.g0001.step_000000010"))
          .ok());
}

TEST(TrainerTest, OrphansOfABrokenGenerationSaveTheirStateUnderANameOfItsOwn) {
  const TemporaryDirectory folder;
  TestGang::Options options = With(folder, 2);
  options.faults[1] = "fail_collective@step=14";
  options.orphan_after_break = true;
  const auto results = RunGang(options);
  for (const auto& result : results) EXPECT_EQ(result.exit_code, 75) << result.error;
  const std::string id = "job000000000/a0001.g0001.step_000000013.emergency";
  EXPECT_TRUE(results[0].observed.checkpoint == id || results[1].observed.checkpoint == id);
  EXPECT_THAT(
      ReadCheckpoint(folder.path(), id),
      SizeIs(ReadCheckpoint(folder.path(), "job000000000/a0001.g0001.step_000000010").size()));

  options.faults.clear();
  options.attempt = 2;
  const auto resumed = RunGang(options);
  ASSERT_EQ(resumed[0].exit_code, 0) << resumed[0].error;
  EXPECT_EQ(RecordsOf<link::StepRecord>(resumed[0]).front().step, 14) << "no step is lost";
}

TEST(TrainerTest, AnotherWorldSizeResumesAndSaysThatItIsNotBitExact) {
  const TemporaryDirectory folder;
  TestGang::Options options = With(folder, 2,
                                   {{"schedule", "{name: rsqrt, warmup: 5 steps, total: 20 steps}"},
                                    {"batch", "{global: 64, micro: 16}"}});
  ASSERT_EQ(RunGang(options)[0].exit_code, 0);
  options.ranks = 1;
  options.attempt = 2;
  options.job = TinyJob({{"schedule", "{name: rsqrt, warmup: 5 steps, total: 30 steps}"},
                         {"batch", "{global: 64, micro: 16}"}});
  const auto results = RunGang(options);
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  EXPECT_EQ(RecordsOf<link::StepRecord>(results[0]).front().step, 21);
  const auto events = RecordsOf<link::Event>(results[0]);
  ASSERT_THAT(events, Not(IsEmpty()));
  EXPECT_EQ(events[0].kind, "numerics_changed");
  EXPECT_THAT(events[0].message, HasSubstr("resumes, not bit-exact: "));
  EXPECT_THAT(events[0].message, HasSubstr("world_size"));
}

TEST(TrainerTest, PrecisionIsNotChangedSilently) {
  const TemporaryDirectory folder;
  TestGang::Options options =
      With(folder, 1, {{"schedule", "{name: rsqrt, warmup: 5 steps, total: 5 steps}"}});
  ASSERT_EQ(RunGang(options)[0].exit_code, 0);
  options.attempt = 2;
  options.job = TinyJob({{"precision", "bf16"}});
  const auto results = RunGang(options);
  EXPECT_EQ(results[0].exit_code, 78);
  EXPECT_THAT(results[0].error, HasSubstr("bf16 is wanted, but the run was begun in f32"));
}

TEST(TrainerTest, MissingDataIsADataErrorAndAFaultThatIsNotUnderstoodAConfigurationError) {
  const TemporaryDirectory folder;
  auto results = RunGang(With(
      folder, 1,
      {{"data", "{train: {format: idx, images: /nonexistent/i.gz, labels: /nonexistent/l.gz}}"}}));
  EXPECT_EQ(results[0].exit_code, 80);
  EXPECT_THAT(results[0].error, HasSubstr("data.train"));
  TestGang::Options options = With(folder, 1);
  options.faults[0] = "explode@step=1";
  results = RunGang(options);
  EXPECT_EQ(results[0].exit_code, 78);
  EXPECT_THAT(results[0].error, HasSubstr("explode"));
}

TEST(DealTest, MicroBatchesAreDealtContiguouslyAndAllOfThem) {
  for (int world_size : {1, 2, 3, 5, 7}) {
    int64_t next = 0;
    for (int rank = 0; rank < world_size; ++rank) {
      const auto ranges = DealMicroBatches(96, 8, world_size, rank);
      EXPECT_GE(static_cast<int>(ranges.size()), 12 / world_size);
      EXPECT_LE(static_cast<int>(ranges.size()), 12 / world_size + 1);
      for (const BatchRange& range : ranges) {
        EXPECT_EQ(range.first, next);
        EXPECT_EQ(range.count, 8);
        next += 8;
      }
    }
    EXPECT_EQ(next, 96);
  }
}

TEST(FaultsTest, HappenOnceWhereEveryConditionHolds) {
  Faults faults;
  ASSERT_THAT(faults.Parse("fail_collective@step=3,bucket=1;nan@step=5,rank=1"), IsOk());
  EXPECT_FALSE(faults.At("bucket", {3, 0, 0, 1}, "fail_collective"));
  EXPECT_FALSE(faults.At("exchange", {3, 1, 0, 1}, "fail_collective"));
  EXPECT_TRUE(faults.At("bucket", {3, 1, 0, 1}, "fail_collective"));
  EXPECT_FALSE(faults.At("bucket", {3, 1, 0, 1}, "fail_collective")) << "once";
  EXPECT_FALSE(faults.At("step", {5, -1, 0, 1}, "nan"));
  EXPECT_TRUE(faults.At("step", {5, -1, 1, 1}, "nan"));
  EXPECT_THAT(Faults().Parse("explode@step=1"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("explode")));
  EXPECT_THAT(Faults().Parse("kill@stepp=1"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stepp=1")));
}

}  // namespace
}  // namespace vitscale
