#include "worker/data/source.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/data/idx_source.h"
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

absl::StatusOr<std::unique_ptr<ImageSource>> OpenAny(FileSystem& fs,
                                                     const std::vector<std::string>& roots,
                                                     const DataSourceConfig& config,
                                                     const SourceRequest& request) {
  if (config.format == DataFormat::kIdx) return OpenIdxSource(fs, roots, config, request);
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
  VITSCALE_RETURN_IF_ERROR(CheckSize(*source, request));
  return source;
}

}  // namespace vitscale
