#include "worker/bench/data_bench.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/bench/jpeg_folder.h"
#include "worker/config/preprocess_config.h"
#include "worker/data/folder_source.h"
#include "worker/data/image/image.h"
#include "worker/data/loader.h"
#include "worker/data/source.h"

namespace vitscale {
namespace {

constexpr int kClassesMax = 1'000'000;

// The set, opened; `made` holds the files that were written for it.
struct DataSet {
  std::optional<TemporaryDirectory> made;
  int64_t made_bytes = 0;
  std::string preprocess_text;
  Preprocess preprocess;
  DataSourceConfig config;
  SourceRequest request;
  std::unique_ptr<ImageSource> source;
};

absl::Status Choose(const DataOptions& options, DataSet& set) {
  if (options.idx_images.empty() != options.idx_labels.empty()) {
    return absl::InvalidArgumentError("--idx-images and --idx-labels: want both or neither");
  }
  if (!options.idx_images.empty()) {
    set.config.format = DataFormat::kIdx;
    set.config.images = AbsolutePath(options.idx_images);
    set.config.labels = AbsolutePath(options.idx_labels);
    return absl::OkStatus();
  }
  set.config.format = DataFormat::kFolder;
  set.config.path = AbsolutePath(options.folder);
  if (!options.folder.empty()) return absl::OkStatus();
  set.made.emplace();
  set.config.path = set.made->path();
  VITSCALE_ASSIGN_OR_RETURN(
      set.made_bytes,
      WriteJpegFolder(set.made->path(), options.jpegs, options.jpeg_width, options.jpeg_height));
  return absl::OkStatus();
}

absl::Status Open(const DataOptions& options, DataSet& set) {
  VITSCALE_RETURN_IF_ERROR(Choose(options, set));
  const bool folder = set.config.format == DataFormat::kFolder;
  set.preprocess_text = options.preprocess;
  if (folder && options.preprocess.empty()) {
    set.preprocess_text = absl::StrCat("inception_crop(", options.image_size, ")|flip_lr");
  }
  if (!set.preprocess_text.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(set.preprocess, PreprocessFromText(set.preprocess_text));
  }
  set.request.classes = kClassesMax;
  set.request.channels = options.channels;
  set.request.ops = set.preprocess.ops;
  if (!set.request.ops.empty()) set.request.height = set.request.width = options.image_size;
  VITSCALE_ASSIGN_OR_RETURN(set.source,
                            OpenSource(PosixFileSystem(), {"/"}, set.config, set.request));
  return absl::OkStatus();
}

absl::StatusOr<double> ImagesPerSecond(const DataSet& set, const DataOptions& options,
                                       int threads) {
  const int64_t batch = std::min(options.batch, set.source->size());
  VITSCALE_ASSIGN_OR_RETURN(const SampleOrder order,
                            SampleOrder::Create(0, set.source->size(), batch));
  BatchLoader loader(*set.source,
                     TrainBatches(order, 0, set.preprocess, {{0, batch}}, 0, options.batches),
                     {threads, threads + 1});
  Batch taken;
  absl::Status status;
  const double seconds = SecondsOf([&] {
    for (int i = 0; i < options.batches && status.ok(); ++i) status = loader.Next(&taken);
  });
  VITSCALE_RETURN_IF_ERROR(status);
  return static_cast<double>(batch * options.batches) / seconds;
}

// Seconds of one thread for an image as the model gets it.
absl::StatusOr<double> SecondsOfImage(const ImageSource& source, int64_t images) {
  std::vector<uint8_t> pixels(source.image_bytes());
  absl::Status status;
  const double seconds = SecondsOf([&] {
    for (int64_t i = 0; i < images && status.ok(); ++i)
      status = source.ReadInEpoch(i, 0, absl::MakeSpan(pixels));
  });
  VITSCALE_RETURN_IF_ERROR(status);
  return seconds / static_cast<double>(images);
}

absl::StatusOr<double> SecondsOfDecoding(const RawImages& raw, int64_t images) {
  Image buffer;
  absl::Status status;
  const double seconds = SecondsOf([&] {
    for (int64_t i = 0; i < images && status.ok(); ++i) status = raw.Decode(i, &buffer).status();
  });
  VITSCALE_RETURN_IF_ERROR(status);
  return seconds / static_cast<double>(images);
}

absl::Status AddPhases(const DataSet& set, nlohmann::json& report) {
  const int64_t images = std::min<int64_t>(set.source->size(), 256);
  VITSCALE_RETURN_IF_ERROR(SecondsOfImage(*set.source, images).status());  // fills the page cache
  VITSCALE_ASSIGN_OR_RETURN(const double whole, SecondsOfImage(*set.source, images));
  if (set.config.format != DataFormat::kFolder) {
    report["phases"]["read"] = whole;
    report["decode_share"] = 0.0;
    return absl::OkStatus();
  }
  VITSCALE_ASSIGN_OR_RETURN(const auto raw,
                            OpenFolder(PosixFileSystem(), {"/"}, set.config, set.request));
  VITSCALE_ASSIGN_OR_RETURN(const double decoding, SecondsOfDecoding(*raw, images));
  report["phases"]["read_and_decode"] = decoding;
  report["phases"]["preprocess"] = std::max(0.0, whole - decoding);
  report["decode_share"] = std::min(1.0, decoding / whole);
  return absl::OkStatus();
}

std::vector<int> ThreadCounts(const DataOptions& options) {
  if (!options.threads.empty()) return options.threads;
  std::vector<int> counts;
  const int cores = UsableCores();
  for (int n = 1; n < cores; n *= 2) counts.push_back(n);
  counts.push_back(cores);
  return counts;
}

}  // namespace

void AddDataFlags(CLI::App& command, DataOptions& o) {
  auto* folder = command.add_option("--folder", o.folder, "Images in a folder per class");
  command.add_option("--idx-images", o.idx_images, "IDX file of images, gzip or plain")
      ->excludes(folder);
  command.add_option("--idx-labels", o.idx_labels, "IDX file of its labels")->excludes(folder);
  const auto number = [&](const char* flag, auto& value, int64_t most, const char* help) {
    command.add_option(flag, value, help)->check(WholeNumber(1, most))->capture_default_str();
  };
  number("--jpegs", o.jpegs, 1'000'000, "Without a set: JPEG files to make");
  number("--jpeg-width", o.jpeg_width, 20'000, "Their width");
  number("--jpeg-height", o.jpeg_height, 20'000, "Their height");
  command.add_option("--preprocess", o.preprocess,
                     "As in a job file. Default: inception_crop of --image-size, then flip_lr; of "
                     "an IDX set nothing");
  number("--image-size", o.image_size, 20'000, "Side that --preprocess ends in");
  command.add_option("--channels", o.channels, "Colour channels: 1 or 3")
      ->check(OneOfWords({"1", "3"}))
      ->capture_default_str();
  number("--batch", o.batch, 1'000'000, "Images of a batch");
  command.add_option("--threads", o.threads, "Loader threads, each number timed: 1,2,4")
      ->delimiter(',')
      ->check(WholeNumber(1, 1024));
  number("--batches", o.batches, 1'000'000, "Batches timed for each");
  command.add_flag("--json", o.json, "One JSON object instead of a table");
}

absl::StatusOr<nlohmann::json> BenchData(const DataOptions& options) {
  DataSet set;
  VITSCALE_RETURN_IF_ERROR(Open(options, set));
  nlohmann::json report = {{"data", set.source->description()},
                           {"batch", std::min(options.batch, set.source->size())},
                           {"preprocess", set.preprocess_text},
                           {"image", absl::StrCat(set.source->height(), "x", set.source->width(),
                                                  "x", set.source->channels())}};
  if (set.made) report["mean_file_bytes"] = set.made_bytes / options.jpegs;
  VITSCALE_RETURN_IF_ERROR(AddPhases(set, report));
  double best = 0;
  for (const int threads : ThreadCounts(options)) {
    VITSCALE_ASSIGN_OR_RETURN(const double rate, ImagesPerSecond(set, options, threads));
    report["by_threads"].push_back({{"threads", threads}, {"images_per_second", rate}});
    best = std::max(best, rate);
  }
  report["images_per_second"] = best;
  report["peak_rss_bytes"] = PeakResidentBytes();
  return report;
}

}  // namespace vitscale
