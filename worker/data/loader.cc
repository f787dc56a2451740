#include "worker/data/loader.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/philox.h"
#include "kernels/base/status.h"

namespace vitscale {

BatchSequence TrainBatches(const SampleOrder& order, uint64_t seed, const Preprocess& preprocess,
                           std::vector<BatchRange> ranges, int64_t first_step, int64_t steps) {
  const int64_t per_step = static_cast<int64_t>(ranges.size());
  BatchSequence sequence;
  sequence.count = per_step * steps;
  sequence.at = [order, seed, preprocess, ranges = std::move(ranges), first_step,
                 per_step](int64_t number) {
    const BatchRange& range = ranges[number % per_step];
    BatchSpec spec{first_step + number / per_step, range.first, {}};
    for (int64_t i = 0; i < range.count; ++i) {
      const SamplePlace place = order.At(spec.step, range.first + i);
      const bool flip =
          preprocess.flip_lr &&
          Draws(seed, DrawPurpose::kFlip, place.epoch, place.sample).Bits() >> 31 != 0;
      spec.samples.push_back({place.sample, flip, place.epoch});
    }
    return spec;
  };
  return sequence;
}

BatchSequence EvalBatches(int64_t size, int64_t batch, int rank, int world_size) {
  VITSCALE_CHECK(size >= 0 && batch > 0 && rank >= 0 && rank < world_size);
  const int64_t batches = (size + batch - 1) / batch;
  BatchSequence sequence;
  sequence.count = batches > rank ? (batches - rank - 1) / world_size + 1 : 0;
  sequence.at = [size, batch, rank, world_size](int64_t number) {
    BatchSpec spec{0, (number * world_size + rank) * batch, {}};
    for (int64_t i = spec.first; i < spec.first + batch; ++i) {
      spec.samples.push_back({i < size ? i : -1});
    }
    return spec;
  };
  return sequence;
}

absl::Status FillBatch(const ImageSource& source, const BatchSpec& spec, Batch* batch) {
  const int64_t count = static_cast<int64_t>(spec.samples.size());
  const int64_t image_bytes = source.image_bytes();
  batch->step = spec.step;
  batch->first = spec.first;
  batch->images.resize(count * image_bytes);
  batch->augment.resize(count * 3);
  batch->labels.resize(count);
  batch->valid.resize(count);
  batch->samples.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    const SampleSpec& sample = spec.samples[i];
    const bool real = sample.sample >= 0;
    const auto pixels = absl::MakeSpan(batch->images).subspan(i * image_bytes, image_bytes);
    batch->samples[i] = sample.sample;
    batch->labels[i] = real ? source.label(sample.sample) : 0;
    batch->valid[i] = real ? 1.0f : 0.0f;
    batch->augment[3 * i] = 0;
    batch->augment[3 * i + 1] = 0;
    batch->augment[3 * i + 2] = sample.flip ? 1 : 0;
    if (!real) {
      std::fill(pixels.begin(), pixels.end(), uint8_t{0});
      continue;
    }
    VITSCALE_RETURN_IF_ERROR(Annotate(source.ReadInEpoch(sample.sample, sample.epoch, pixels),
                                      absl::StrCat("sample ", sample.sample)));
  }
  return absl::OkStatus();
}

LoaderOptions LoaderOptionsFor(const ImageSource& source, int64_t batch, int cores) {
  constexpr int kThreadsMax = 16;
  constexpr int64_t kBytesMax = int64_t{1} << 30;
  LoaderOptions options;
  if (!source.is_slow()) return options;
  const int64_t batches = kBytesMax / std::max<int64_t>(1, batch * source.image_bytes());
  options.threads = std::clamp(cores, 1, kThreadsMax);
  options.prefetch = static_cast<int>(std::clamp<int64_t>(batches, 2, options.threads + 1));
  return options;
}

// A ring of slots: batch number n lives in slot n mod prefetch. A thread takes the next number once
// its slot is free and fills it outside of the lock; the consumer takes numbers in order, so order
// never depends on the threads.
class BatchLoader::Impl {
 public:
  Impl(const ImageSource& source, BatchSequence sequence, const LoaderOptions& options)
      : source_(source), sequence_(std::move(sequence)), slots_(options.prefetch) {
    VITSCALE_CHECK(options.threads >= 1 && options.prefetch >= 1);
    for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { Work(); });
  }

  ~Impl() {
    Cancel();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status Next(Batch* batch) {
    absl::MutexLock lock(&mutex_);
    if (!failed_.ok()) return failed_;
    if (taken_ == sequence_.count) return absl::OutOfRangeError("no more batches");
    mutex_.Await(absl::Condition(this, &Impl::CanTake));
    if (cancelled_) return absl::CancelledError("the batch loader was cancelled");
    Slot& slot = SlotOf(taken_);
    if (!slot.status.ok()) return failed_ = slot.status;
    std::swap(*batch, slot.batch);
    slot.ready = false;
    ++taken_;
    return absl::OkStatus();
  }

  void Cancel() {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
  }

  int64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  struct Slot {
    Batch batch;
    absl::Status status;
    bool ready = false;
  };

  Slot& SlotOf(int64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return slots_[number % static_cast<int64_t>(slots_.size())];
  }
  bool CanTake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return cancelled_ || SlotOf(taken_).ready;
  }
  bool CanStart() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return cancelled_ || started_ == sequence_.count ||
           started_ < taken_ + static_cast<int64_t>(slots_.size());
  }

  void Work() {
    Batch batch;
    while (true) {
      int64_t number;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &Impl::CanStart));
        if (cancelled_ || started_ == sequence_.count) return;
        number = started_++;
        std::swap(batch, SlotOf(number).batch);
      }
      const absl::Status filled = FillBatch(source_, sequence_.at(number), &batch);
      bytes_read_.fetch_add(static_cast<int64_t>(batch.images.size()), std::memory_order_relaxed);
      absl::MutexLock lock(&mutex_);
      Slot& slot = SlotOf(number);
      std::swap(batch, slot.batch);
      slot.status = filled;
      slot.ready = true;
    }
  }

  const ImageSource& source_;
  const BatchSequence sequence_;
  std::atomic<int64_t> bytes_read_{0};
  absl::Mutex mutex_;
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  int64_t started_ ABSL_GUARDED_BY(mutex_) = 0;  // numbers handed to threads
  int64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;    // numbers handed to the consumer
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

BatchLoader::BatchLoader(const ImageSource& source, BatchSequence sequence,
                         const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(source, std::move(sequence), options)) {}

BatchLoader::~BatchLoader() = default;

absl::Status BatchLoader::Next(Batch* batch) { return impl_->Next(batch); }

void BatchLoader::Cancel() { impl_->Cancel(); }

int64_t BatchLoader::bytes_read() const { return impl_->bytes_read(); }

}  // namespace vitscale
