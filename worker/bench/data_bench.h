// vitscale-bench data: how many images a second the loader gives, by threads, and how much of the
// work is decoding. A data set of the user's, or JPEG files made for the occasion.

#ifndef WORKER_BENCH_DATA_BENCH_H_
#define WORKER_BENCH_DATA_BENCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"

namespace vitscale {

struct DataOptions {
  std::string folder;                  // a folder per class
  std::string idx_images, idx_labels;  // or an IDX set; neither: JPEG files made here
  int64_t jpegs = 128;
  int jpeg_width = 500, jpeg_height = 375;
  std::string preprocess;  // a job file's; empty: inception_crop(image_size)|flip_lr, of IDX none
  int image_size = 224, channels = 3;
  int64_t batch = 32;
  std::vector<int> threads;  // loader threads, each timed; empty: powers of 2 up to the cores
  int batches = 20;          // timed for each
  bool json = false;
};

void AddDataFlags(CLI::App& command, DataOptions& options);

// Files are read once before, so that they come from the page cache where they fit. Keys: data,
// batch, preprocess, image (its size, text), mean_file_bytes (of files made here), by_threads (list
// of {threads, images_per_second}), images_per_second (the best of them), phases (of a folder:
// seconds of one thread for one image: read_and_decode, preprocess; else read), decode_share (of
// those), peak_rss_bytes.
absl::StatusOr<nlohmann::json> BenchData(const DataOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_DATA_BENCH_H_
