#include "worker/eval/classify.h"

#include <atomic>
#include <cmath>
#include <mutex>
#include <set>
#include <vector>

#include "tests/status_matchers.h"
#include "tests/worker/collective/ranks.h"
#include "worker/collective/single_collective.h"

namespace vitscale {
namespace {

// Image i is all i % 256; its label is i % 10.
class CountingSource : public ImageSource {
 public:
  explicit CountingSource(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  int height() const override { return 2; }
  int width() const override { return 2; }
  int channels() const override { return 1; }
  int classes_seen() const override { return 10; }
  int32_t label(int64_t index) const override { return static_cast<int32_t>(index % 10); }
  absl::Status Read(int64_t index, absl::Span<uint8_t> pixels) const override {
    std::fill(pixels.begin(), pixels.end(), static_cast<uint8_t>(index % 256));
    return absl::OkStatus();
  }
  std::string description() const override { return "counting"; }

 private:
  const int64_t size_;
};

// Loss of image i is 1 / (i + 1); images whose index is a multiple of 3 are right. Counts what it
// sees.
class FakeModel : public EvalModel {
 public:
  absl::StatusOr<EvalSums> Evaluate(const Batch& batch) override {
    EvalSums sums;
    for (int64_t i = 0; i < batch.size(); ++i) {
      if (batch.valid[i] == 0) continue;
      std::lock_guard lock(*mutex);
      EXPECT_TRUE(seen->insert(batch.samples[i]).second)
          << "image " << batch.samples[i] << " twice";
      sums.loss += 1.0 / static_cast<double>(batch.samples[i] + 1);
      sums.correct += batch.samples[i] % 3 == 0;
    }
    return sums;
  }
  std::mutex* mutex = nullptr;
  std::set<int64_t>* seen = nullptr;
};

ClassifyResult RunOn(int ranks, int64_t images, int64_t batch) {
  const CountingSource source(images);
  std::mutex mutex;
  std::set<int64_t> seen;
  std::vector<ClassifyResult> results(ranks);
  const auto body = [&](Collective& collective) {
    FakeModel model;
    model.mutex = &mutex;
    model.seen = &seen;
    bool failed = false;
    const auto result = Classify(source, batch, model, collective, absl::Seconds(30), &failed);
    ASSERT_TRUE(result.ok()) << result.status();
    results[collective.rank()] = *result;
  };
  RunOnRanks(ranks, body);
  EXPECT_EQ(static_cast<int64_t>(seen.size()), images);
  for (const ClassifyResult& result : results) {
    EXPECT_EQ(result.loss, results[0].loss);
    EXPECT_EQ(result.top1, results[0].top1);
  }
  return results[0];
}

TEST(ClassifyTest, EveryImageCountsOnceAndTheResultDoesNotDependOnTheRanksToTheLastBit) {
  for (const int64_t images : {1, 7, 64, 101}) {
    const ClassifyResult one = RunOn(1, images, 8);
    EXPECT_EQ(one.images, images);
    double loss = 0;
    for (int64_t i = 0; i < images; ++i) loss += 1.0 / static_cast<double>(i + 1);
    // At most 101 + 13 additions of positive terms, each rounded to 2^-53.
    EXPECT_NEAR(one.loss, loss / static_cast<double>(images), 120 * 0x1p-53 * one.loss);
    EXPECT_EQ(one.top1, static_cast<double>((images + 2) / 3) / static_cast<double>(images));
    for (int ranks : {2, 3}) {
      const ClassifyResult many = RunOn(ranks, images, 8);
      EXPECT_EQ(many.loss, one.loss);
      EXPECT_EQ(many.top1, one.top1);
    }
  }
}

TEST(ClassifyTest, SaysWhetherTheExchangeOrTheModelFailed) {
  class Broken : public EvalModel {
   public:
    absl::StatusOr<EvalSums> Evaluate(const Batch&) override {
      return absl::InternalError("device");
    }
  } broken;
  const CountingSource source(4);
  bool failed = true;
  EXPECT_THAT(
      Classify(source, 2, broken, *MakeSingleCollective(), absl::Seconds(1), &failed).status(),
      StatusIs(absl::StatusCode::kInternal));
  EXPECT_FALSE(failed);

  const auto aborted = MakeSingleCollective();
  aborted->Abort();
  FakeModel model;
  std::mutex mutex;
  std::set<int64_t> seen;
  model.mutex = &mutex;
  model.seen = &seen;
  EXPECT_FALSE(Classify(source, 2, model, *aborted, absl::Seconds(1), &failed).ok());
  EXPECT_TRUE(failed);
}

}  // namespace
}  // namespace vitscale
