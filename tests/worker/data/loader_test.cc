#include "worker/data/loader.h"

#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/status_matchers.h"
#include "worker/data/synthetic_source.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint64_t kSeed = 5;
constexpr int64_t kSize = 130, kBatch = 32;

class LoaderTest : public testing::Test {
 protected:
  BatchSequence Train(std::vector<BatchRange> ranges, int64_t first_step, int64_t steps) {
    Preprocess preprocess;
    preprocess.flip_lr = true;
    return TrainBatches(*SampleOrder::Create(kSeed, kSize, kBatch), kSeed, preprocess,
                        std::move(ranges), first_step, steps);
  }
  std::vector<Batch> All(BatchSequence sequence, LoaderOptions options = {}) {
    BatchLoader loader(*source_, std::move(sequence), options);
    std::vector<Batch> batches;
    while (true) {
      Batch batch;
      const absl::Status status = loader.Next(&batch);
      if (absl::IsOutOfRange(status)) return batches;
      EXPECT_THAT(status, IsOk());
      if (!status.ok()) return batches;
      batches.push_back(std::move(batch));
    }
  }

  std::unique_ptr<ImageSource> source_ = *MakeSyntheticSource(kSize, {10, 4, 4, 1, 0});
};

// (step, place) -> (sample, flip) over all batches.
std::map<std::pair<int64_t, int64_t>, std::pair<int64_t, int>> Places(
    const std::vector<Batch>& batches) {
  std::map<std::pair<int64_t, int64_t>, std::pair<int64_t, int>> places;
  for (const Batch& batch : batches) {
    for (int64_t i = 0; i < batch.size(); ++i) {
      places[{batch.step, batch.first + i}] = {batch.samples[i], batch.augment[3 * i + 2]};
    }
  }
  return places;
}

TEST_F(LoaderTest, BatchesHoldTheImagesTheirLabelsAndFlips) {
  const std::vector<Batch> batches = All(Train({{0, 16}, {16, 16}}, 0, 1));
  ASSERT_EQ(batches.size(), 2u);
  std::vector<uint8_t> pixels(16);
  int flips = 0;
  for (const Batch& batch : batches) {
    ASSERT_EQ(batch.size(), 16);
    for (int64_t i = 0; i < batch.size(); ++i) {
      ASSERT_THAT(source_->Read(batch.samples[i], absl::MakeSpan(pixels)), IsOk());
      EXPECT_TRUE(std::equal(pixels.begin(), pixels.end(), batch.images.begin() + 16 * i));
      EXPECT_EQ(batch.labels[i], source_->label(batch.samples[i]));
      EXPECT_EQ(batch.valid[i], 1.0f);
      EXPECT_EQ(batch.augment[3 * i], 0);
      flips += batch.augment[3 * i + 2];
    }
  }
  EXPECT_GT(flips, 3);  // 32 fair coins: fewer than 4 of either side once in 10^6
  EXPECT_LT(flips, 29);
}

TEST_F(LoaderTest, WorldSizeThreadsAndPrefetchingChangeNothing) {
  const auto one = Places(All(Train({{0, 32}}, 3, 9)));
  auto two = Places(All(Train({{0, 16}}, 3, 9)));
  two.merge(Places(All(Train({{16, 16}}, 3, 9))));
  EXPECT_EQ(one, two);
  for (const LoaderOptions options :
       {LoaderOptions{1, 1}, LoaderOptions{4, 1}, LoaderOptions{3, 7}}) {
    EXPECT_EQ(one, Places(All(Train({{0, 8}, {8, 8}, {16, 8}, {24, 8}}, 3, 9), options)));
  }
}

TEST_F(LoaderTest, AResumedRunSeesWhatTheUninterruptedOneSaw) {
  auto halves = Places(All(Train({{0, 32}}, 0, 7)));
  halves.merge(Places(All(Train({{0, 32}}, 7, 13))));
  EXPECT_EQ(Places(All(Train({{0, 32}}, 0, 20))), halves);
}

TEST_F(LoaderTest, FlipsOfASampleDifferBetweenEpochs) {
  std::map<int64_t, int> flips, visits;
  for (const auto& [place, what] : Places(All(Train({{0, 32}}, 0, 40)))) {
    ++visits[what.first];
    flips[what.first] += what.second;
  }
  int mixed = 0;
  for (const auto& [sample, count] : visits) mixed += flips[sample] > 0 && flips[sample] < count;
  EXPECT_GT(mixed, kSize / 2);  // 10 epochs: all ten alike once in 512
}

TEST_F(LoaderTest, WithoutFlipNothingIsFlipped) {
  const SampleOrder order = *SampleOrder::Create(kSeed, kSize, kBatch);
  for (const Batch& batch : All(TrainBatches(order, kSeed, Preprocess(), {{0, 32}}, 0, 4))) {
    for (int64_t i = 0; i < batch.size(); ++i) EXPECT_EQ(batch.augment[3 * i + 2], 0);
  }
}

TEST_F(LoaderTest, BatchesComeInOrderWithManyThreads) {
  const std::vector<Batch> batches = All(Train({{0, 8}, {8, 8}}, 0, 50), {4, 5});
  ASSERT_EQ(batches.size(), 100u);
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(batches[i].step, i / 2);
    EXPECT_EQ(batches[i].first, i % 2 * 8);
  }
}

TEST_F(LoaderTest, EvaluationsSeeEveryImageOnceAndPadTheLastBatch) {
  for (int world_size : {1, 2, 3, 7}) {
    std::map<int64_t, int> seen;
    double valid = 0;
    for (int rank = 0; rank < world_size; ++rank) {
      for (const Batch& batch : All(EvalBatches(kSize, 32, rank, world_size))) {
        ASSERT_EQ(batch.size(), 32);
        for (int64_t i = 0; i < 32; ++i) {
          valid += batch.valid[i];
          if (batch.samples[i] >= 0) {
            ++seen[batch.samples[i]];
            EXPECT_EQ(batch.samples[i], batch.first + i);
          } else {
            EXPECT_EQ(batch.valid[i], 0.0f);
            EXPECT_EQ(batch.images[16 * i], 0);
          }
        }
      }
    }
    EXPECT_EQ(valid, kSize);
    EXPECT_EQ(seen.size(), static_cast<size_t>(kSize));
  }
  EXPECT_EQ(EvalBatches(32, 32, 1, 2).count, 0);  // nothing for the second rank
}

TEST_F(LoaderTest, BuffersGoRound) {
  BatchLoader loader(*source_, Train({{0, 32}}, 0, 50), {1, 2});
  Batch batch;
  std::map<const uint8_t*, int> buffers;
  for (int i = 0; i < 50; ++i) {
    ASSERT_THAT(loader.Next(&batch), IsOk());
    ++buffers[batch.images.data()];
  }
  EXPECT_LE(buffers.size(), 4u);  // two slots, one at the thread, one here
  EXPECT_THAT(loader.Next(&batch), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_EQ(loader.bytes_read(), 50 * 32 * 16);
}

TEST_F(LoaderTest, CancelWakesAWaitingNext) {
  BatchSequence slow = Train({{0, 32}}, 0, 10);
  std::atomic<bool> release{false};
  slow.at = [&release, at = slow.at](int64_t number) {
    while (!release) std::this_thread::yield();
    return at(number);
  };
  BatchLoader loader(*source_, slow, {1, 2});
  std::thread canceller([&] { loader.Cancel(); });
  Batch batch;
  EXPECT_THAT(loader.Next(&batch), StatusIs(absl::StatusCode::kCancelled));
  canceller.join();
  release = true;
}

// A source whose fifth image cannot be read.
class BrokenSource : public ImageSource {
 public:
  int64_t size() const override { return kSize; }
  int height() const override { return 1; }
  int width() const override { return 1; }
  int channels() const override { return 1; }
  int classes_seen() const override { return 1; }
  int32_t label(int64_t) const override { return 0; }
  absl::Status Read(int64_t index, absl::Span<uint8_t>) const override {
    return index == 4 ? absl::DataLossError("unreadable") : absl::OkStatus();
  }
  std::string description() const override { return "broken"; }
};

TEST_F(LoaderTest, AnErrorComesInItsTurnAndStays) {
  BrokenSource broken;
  BatchLoader loader(broken, EvalBatches(kSize, 2, 0, 1), {3, 4});
  Batch batch;
  EXPECT_THAT(loader.Next(&batch), IsOk());
  EXPECT_THAT(loader.Next(&batch), IsOk());
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(loader.Next(&batch),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("sample 4: unreadable")));
  }
}

TEST_F(LoaderTest, LeavingEarlyStopsTheThreads) {
  for (int i = 0; i < 20; ++i) {
    BatchLoader loader(*source_, Train({{0, 32}}, 0, 1000000), {2, 3});
    Batch batch;
    EXPECT_THAT(loader.Next(&batch), IsOk());
  }
}

}  // namespace
}  // namespace vitscale
