#include "worker/data/source.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"
#include "worker/data/folder_source.h"
#include "worker/data/idx_source.h"
#include "worker/data/raw_images.h"
#include "worker/data/synthetic_source.h"

namespace vitscale {
namespace {

absl::Status CheckConfig(const DataSourceConfig& config, const SourceRequest& request) {
  if (request.classes < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("classes is ", request.classes, ", want at least 1"));
  }
  if (config.take < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("take is ", config.take, ", want 0 (all) or more"));
  }
  return absl::OkStatus();
}

absl::Status CheckSize(const ImageSource& source, const SourceRequest& request) {
  const auto agree = [](int wanted, int is) { return wanted == 0 || wanted == is; };
  if (agree(request.height, source.height()) && agree(request.width, source.width()) &&
      agree(request.channels, source.channels())) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(source.description(), "; the model wants ", request.height, "x", request.width,
                   "x", request.channels, " (height x width x channels; 0 is any)"));
}

// Ops that do not lead to the model's size are seen here, not at the first step.
absl::Status TryFirst(const ImageSource& source) {
  std::vector<uint8_t> pixels(source.image_bytes());
  return source.Read(0, absl::MakeSpan(pixels));
}

absl::StatusOr<std::unique_ptr<ImageSource>> OpenAny(FileSystem& fs,
                                                     const std::vector<std::string>& roots,
                                                     const DataSourceConfig& config,
                                                     const SourceRequest& request) {
  if (config.format == DataFormat::kIdx) return OpenIdxSource(fs, roots, config, request);
  if (config.format == DataFormat::kFolder) {
    VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<RawImages> images,
                              OpenFolder(fs, roots, config, request));
    return MakePreprocessedSource(std::move(images), request);
  }
  const int64_t images =
      config.take > 0 ? std::min(config.take, config.synthetic_images) : config.synthetic_images;
  return MakeSyntheticSource(images, request);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageSource>> OpenSource(FileSystem& fs,
                                                        const std::vector<std::string>& roots,
                                                        const DataSourceConfig& config,
                                                        const SourceRequest& request) {
  VITSCALE_RETURN_IF_ERROR(CheckConfig(config, request));
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<ImageSource> source,
                            OpenAny(fs, roots, config, request));
  const bool folder = config.format == DataFormat::kFolder;
  if (request.ops.empty() && !folder) {
    VITSCALE_RETURN_IF_ERROR(CheckSize(*source, request));
    return source;
  }
  if (source->channels() != request.channels) {
    return absl::InvalidArgumentError(
        absl::StrCat(source->description(), "; the model wants ", request.channels, " channels"));
  }
  if (!folder) source = MakePreprocessedSource(MakeRawImages(std::move(source)), request);
  VITSCALE_RETURN_IF_ERROR(TryFirst(*source));
  return source;
}

uint64_t ClassNamesHash(const ImageSource& source) {
  const std::vector<std::string>& names = source.class_names();
  if (names.empty()) return 0;
  std::string all;
  for (const std::string& name : names) absl::StrAppend(&all, name, absl::string_view("\0", 1));
  return std::max<uint64_t>(1, Hash64(all));
}

absl::Status CheckClassNames(uint64_t trained_on, const ImageSource& eval) {
  const uint64_t own = ClassNamesHash(eval);
  if (trained_on == 0 || own == 0 || trained_on == own) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(eval.description(), ": its ", eval.class_names().size(), " class folders ('",
                   eval.class_names().front(), "' to '", eval.class_names().back(),
                   "') are not those that the head was trained on"));
}

absl::Status CheckSameClasses(const ImageSource& train, const ImageSource& eval,
                              absl::string_view train_name) {
  const std::vector<std::string>&want = train.class_names(), &are = eval.class_names();
  if (want.empty() || are.empty()) return absl::OkStatus();
  std::vector<std::string> missing, extra;  // both lists are sorted
  std::set_difference(want.begin(), want.end(), are.begin(), are.end(),
                      std::back_inserter(missing));
  std::set_difference(are.begin(), are.end(), want.begin(), want.end(), std::back_inserter(extra));
  if (missing.empty() && extra.empty()) return absl::OkStatus();
  const auto list = [](std::vector<std::string> names) {
    constexpr size_t kShown = 5;
    const size_t all = names.size();
    names.resize(std::min(all, kShown));
    return absl::StrCat(all, all == 0 ? ""
                                      : absl::StrCat(" ('", absl::StrJoin(names, "', '"), "'",
                                                     all > kShown ? ", …)" : ")"));
  };
  return absl::InvalidArgumentError(
      absl::StrCat(eval.description(), ": its class folders are not those of ", train_name, ": ",
                   list(missing), " missing, ", list(extra), " more"));
}

const std::vector<std::string>& ImageSource::class_names() const {
  static const auto* none = new std::vector<std::string>;
  return *none;
}

}  // namespace vitscale
