// That sums run beside backward: order of events only, whatever the machine.

#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/await.h"
#include "tests/status_matchers.h"
#include "worker/collective/sleeping_collective.h"
#include "worker/trainer/engine/replica.h"

namespace vitscale {
namespace {

using ::testing::Gt;
using ::testing::SizeIs;

constexpr int64_t kBatch = 4;
constexpr absl::Duration kLong = absl::Seconds(30);

PlanRequest Request() {
  PlanRequest request;
  request.model.SetShape({4, 32, 4, 2, 48});
  request.model.image_size = 12;
  request.model.channels = 1;
  request.model.classes = 5;
  request.precision = Precision::kF32;
  request.batch_micro = kBatch;
  request.bucket_bytes = 8 << 10;
  return request;
}

Batch ABatch() {
  Batch batch;
  batch.images.assign(kBatch * 12 * 12, 100);
  batch.augment.assign(3 * kBatch, 0);
  batch.labels.assign(kBatch, 1);
  batch.valid.assign(kBatch, 1.0f);
  batch.samples.assign(kBatch, 0);
  return batch;
}

// Counts sums that have ended, and lets whoever holds backward up wait for them.
class Sums {
 public:
  void Sum(int64_t bytes) {
    absl::MutexLock lock(&mutex_);
    sizes_.push_back(bytes);
  }
  bool AwaitEnded(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto ended = [&] { return sizes_.size() >= count; };
    return AwaitFor(mutex_, absl::Condition(&ended), kLong);
  }
  std::vector<int64_t> sizes() const {
    absl::MutexLock lock(&mutex_);
    return sizes_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<int64_t> sizes_ ABSL_GUARDED_BY(mutex_);
};

// Starts each bucket as the engine does. Before the last it waits, in the midst of backward, until
// all before have been summed: that ends only if sums do not wait for the end of backward.
class OverlapSink : public MarkerSink {
 public:
  OverlapSink(Replica& replica, Collective& collective, Sums& sums)
      : replica_(replica), collective_(collective), sums_(sums) {}

  void OnGradientsReady(int bucket) override {
    order_.push_back(bucket);
    if (order_.size() == static_cast<size_t>(replica_.buckets())) {
      all_but_last_ended_ = sums_.AwaitEnded(order_.size() - 1);
    }
    collective_.Start(bucket, replica_.BucketValues(bucket));
  }
  void OnPhase(const std::string& name) override { phase_of_last_ = name; }

  Replica& replica_;
  Collective& collective_;
  Sums& sums_;
  std::vector<int> order_;
  std::string phase_of_last_;
  bool all_but_last_ended_ = false;
};

TEST(OverlapTest, AllBucketsButTheLastAreSummedBeforeBackwardEnds) {
  BackendOptions backend;
  backend.threads = 1;
  const Plan plan = MakePlan(Request()).value();
  const auto replica = Replica::Create(backend, plan, OptimizerConfig{}).value();
  ASSERT_THAT(replica->Initialise(3), IsOk());
  ASSERT_THAT(plan.layout.buckets, SizeIs(Gt(3)));
  Sums sums;
  const auto collective = MakeSleepingCollective([&](int64_t bytes) { sums.Sum(bytes); });
  ASSERT_THAT(collective->Connect(kLong), IsOk());
  OverlapSink sink(*replica, *collective, sums);
  ASSERT_THAT(replica->RunMicroBatch(ABatch(), 0, 1, &sink), IsOk());
  EXPECT_TRUE(sink.all_but_last_ended_);
  ASSERT_THAT(collective->ExchangeRecords({}, kLong), IsOk());
  std::vector<int64_t> in_order_of_the_arena;
  for (const Bucket& bucket : plan.layout.buckets) in_order_of_the_arena.push_back(bucket.bytes);
  EXPECT_EQ(sums.sizes(), in_order_of_the_arena) << "each once, as they become ready";
}

// What no backward hides: the bucket that is ready last.
TEST(OverlapTest, TheLastBucketOfARealModelIsLessThanATenthOfTheGradients) {
  for (const char* name : {"Ti/16", "S/16", "B/16", "L/16"}) {
    PlanRequest request;
    request.model.SetShape(VariantByName(name).value());
    request.model.image_size = 224;
    request.model.classes = 1000;
    request.batch_micro = 1;
    const Plan plan = MakePlan(request).value();
    int64_t bytes = 0;
    for (const Bucket& bucket : plan.layout.buckets) bytes += bucket.bytes;
    EXPECT_LT(10 * plan.layout.buckets.back().bytes, bytes) << name;
  }
}

}  // namespace
}  // namespace vitscale
