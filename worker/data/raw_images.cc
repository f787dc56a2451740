#include "worker/data/raw_images.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/data/preprocess.h"

namespace vitscale {
namespace {

constexpr int64_t kBufferKept = int64_t{16} << 20;  // bytes a thread keeps between images

class FixedImages : public RawImages {
 public:
  explicit FixedImages(std::unique_ptr<ImageSource> source) : source_(std::move(source)) {}
  int64_t size() const override { return source_->size(); }
  int channels() const override { return source_->channels(); }
  int classes_seen() const override { return source_->classes_seen(); }
  int32_t label(int64_t index) const override { return source_->label(index); }
  const std::vector<std::string>& class_names() const override { return source_->class_names(); }
  uint64_t fingerprint() const override { return source_->fingerprint(); }
  std::string description() const override { return source_->description(); }

  absl::StatusOr<ImageView> Decode(int64_t index, Image* buffer) const override {
    buffer->Resize(source_->height(), source_->width(), source_->channels());
    VITSCALE_RETURN_IF_ERROR(
        source_->Read(index, absl::MakeSpan(buffer->pixels(), source_->image_bytes())));
    return buffer->view();
  }
  std::string NameOf(int64_t index) const override { return absl::StrCat("image ", index); }

 private:
  std::unique_ptr<ImageSource> source_;
};

class PreprocessedSource : public ImageSource {
 public:
  PreprocessedSource(std::unique_ptr<RawImages> images, const SourceRequest& request)
      : images_(std::move(images)), request_(request) {}
  int64_t size() const override { return images_->size(); }
  int height() const override { return request_.height; }
  int width() const override { return request_.width; }
  int channels() const override { return images_->channels(); }
  int classes_seen() const override { return images_->classes_seen(); }
  int32_t label(int64_t index) const override { return images_->label(index); }
  const std::vector<std::string>& class_names() const override { return images_->class_names(); }
  uint64_t fingerprint() const override { return images_->fingerprint(); }
  bool is_slow() const override { return true; }
  std::string description() const override { return images_->description(); }

  absl::Status Read(int64_t index, absl::Span<uint8_t> pixels) const override {
    return ReadInEpoch(index, 0, pixels);
  }
  absl::Status ReadInEpoch(int64_t index, int64_t epoch,
                           absl::Span<uint8_t> pixels) const override {
    VITSCALE_CHECK(index >= 0 && index < size()) << "image " << index << " of " << size();
    thread_local Image buffer;
    VITSCALE_ASSIGN_OR_RETURN(const ImageView view, images_->Decode(index, &buffer));
    Draws draws(request_.draw_seed, DrawPurpose::kCrop, epoch, index);
    const absl::Status done =
        ApplyImageOps(request_.ops, view, draws, request_.height, request_.width, pixels);
    buffer.ReleaseAbove(kBufferKept);
    return done.ok() ? done : Annotate(done, images_->NameOf(index));
  }

 private:
  const std::unique_ptr<RawImages> images_;
  const SourceRequest request_;
};

}  // namespace

std::unique_ptr<RawImages> MakeRawImages(std::unique_ptr<ImageSource> source) {
  return std::make_unique<FixedImages>(std::move(source));
}

std::unique_ptr<ImageSource> MakePreprocessedSource(std::unique_ptr<RawImages> images,
                                                    const SourceRequest& request) {
  return std::make_unique<PreprocessedSource>(std::move(images), request);
}

}  // namespace vitscale
