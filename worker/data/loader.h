// Batches made ahead of time by background threads.
//
//   BatchLoader loader(*source, TrainBatches(order, seed, preprocess, ranges, first_step, steps));
//   Batch batch;
//   while (…) VITSCALE_RETURN_IF_ERROR(loader.Next(&batch));
//
// What is in batch number i is a pure function of i (BatchSequence): never of threads, prefetching
// or rank. A new generation, or a resumed run, simply makes a new loader. Images stay uint8 and
// unflipped; the flip goes along as a number. Decoding and resizing are the source's, and so happen
// in the loader's threads.

#ifndef WORKER_DATA_LOADER_H_
#define WORKER_DATA_LOADER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "worker/data/data_config.h"
#include "worker/data/sample_order.h"
#include "worker/data/source.h"

namespace vitscale {

// One micro-batch on the host, laid out as the device's input tensors want it.
struct Batch {
  int64_t step = 0;   // as in SampleOrder::At; 0 for evaluations
  int64_t first = 0;  // place of the first image in the global batch, or in the evaluation set
  std::vector<uint8_t> images;   // [batch, height, width, channels]
  std::vector<int32_t> augment;  // [batch, 3]: top, left of the crop; 1 to flip
  std::vector<int32_t> labels;   // [batch], class ids
  std::vector<float> valid;      // [batch]: 1, or 0 for padding (evaluations only)
  std::vector<int64_t> samples;  // [batch]: index in the source, -1 for padding

  int64_t size() const { return static_cast<int64_t>(labels.size()); }
};

// What one image of a batch is to be. sample -1: padding (zeros, label 0, valid 0).
struct SampleSpec {
  int64_t sample = -1;
  bool flip = false;
  int64_t epoch = 0;  // keys the random crop, see ImageSource::ReadInEpoch
};
struct BatchSpec {
  int64_t step = 0;
  int64_t first = 0;
  std::vector<SampleSpec> samples;
};

// A finite sequence of batches, each a pure function of its number. Called from the loader's
// threads.
struct BatchSequence {
  int64_t count = 0;
  std::function<BatchSpec(int64_t number)> at;
};

// Places [first, first + count) of the global batch: one micro-batch.
struct BatchRange {
  int64_t first = 0;
  int64_t count = 0;
};

// For steps first_step, first_step + 1, … (`steps` of them) the given micro-batches of this rank,
// in order. Flips are drawn by (seed, epoch, sample).
BatchSequence TrainBatches(const SampleOrder& order, uint64_t seed, const Preprocess& preprocess,
                           std::vector<BatchRange> ranges, int64_t first_step, int64_t steps);

// Samples 0, 1, … size - 1, cut into batches of `batch`, the last one padded; `rank` of
// `world_size` gets every world_size-th batch. Every image is in exactly one rank's sequence.
BatchSequence EvalBatches(int64_t size, int64_t batch, int rank, int world_size);

struct LoaderOptions {
  int threads = 1;   // at least 1
  int prefetch = 2;  // batches ready or in the making, at least 1
};

// One thread suffices for what lies in memory. A slow source (ImageSource::is_slow) gets as many as
// there are cores, 16 at most, with a batch more than threads on the way, but no more than 1 GiB of
// batches: they rest when the queue is full, so that they take from the computation only what it
// needs. `cores`: what this rank may use.
LoaderOptions LoaderOptionsFor(const ImageSource& source, int64_t batch, int cores);

class BatchLoader {
 public:
  // `source` must outlive the loader. Threads start at once.
  BatchLoader(const ImageSource& source, BatchSequence sequence, const LoaderOptions& options = {});
  ~BatchLoader();  // stops and joins; batches not yet taken are dropped
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // The next batch, in order; waits until it is ready. The old buffers of `batch` are taken for
  // later ones, so nothing is allocated once every slot has been round. OUT_OF_RANGE after the
  // last; an error of the source comes in its turn and then again from every further call. Call
  // from one thread.
  absl::Status Next(Batch* batch);

  // Makes a waiting Next() and every later one return CANCELLED. From any thread.
  void Cancel();

  int64_t bytes_read() const;  // pixels read from the source so far

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Fills `batch` as `spec` says; its buffers are reused.
absl::Status FillBatch(const ImageSource& source, const BatchSpec& spec, Batch* batch);

}  // namespace vitscale

#endif  // WORKER_DATA_LOADER_H_
