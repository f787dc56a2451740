#include "worker/data/preprocess.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/data/image/crop.h"
#include "worker/data/image/decode.h"
#include "worker/data/image/resize.h"

namespace vitscale {
namespace {

// The image between two ops: a view into the source, or into one of this thread's two buffers.
class Pipeline {
 public:
  explicit Pipeline(const ImageView& image) : view_(image) {}

  absl::Status Apply(const ImageOp& op, Draws& draws) {
    switch (op.kind) {
      case ImageOpKind::kResize:
        return Resize(op.height, op.width, ResizeBilinear);
      case ImageOpKind::kResizeSmall: {
        const Sides sides = SmallSides(view_.height, view_.width, op.height);
        return Resize(sides.height, sides.width, ResizeArea);
      }
      case ImageOpKind::kCentralCrop:
        return Crop(CentralBox(view_.height, view_.width, op.height, op.width));
      case ImageOpKind::kRandomCrop:
        return Crop(RandomBox(view_.height, view_.width, op.height, op.width, draws));
      case ImageOpKind::kInceptionCrop:
        view_ =
            Cut(view_, InceptionBox(view_.height, view_.width, {op.area_min, op.area_max}, draws));
        return Resize(op.height, op.width, ResizeBilinear);
    }
    return absl::InternalError("an op without meaning");
  }
  // Writes the next resize here if it gives this size, which spares a copy.
  void LastGoesTo(int height, int width, absl::Span<uint8_t> out) {
    last_height_ = height, last_width_ = width, last_ = out;
  }
  const ImageView& view() const { return view_; }

 private:
  absl::Status Resize(int height, int width,
                      void (*resize)(const ImageView&, int, int, absl::Span<uint8_t>)) {
    if (int64_t{height} * width > kPixelsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("resized to ", height, "x", width, " pixels, want at most ", kPixelsMax));
    }
    if (!last_.empty() && height == last_height_ && width == last_width_) {
      resize(view_, height, width, last_);
      view_ = {last_.data(), height, width, view_.channels, int64_t{width} * view_.channels};
      return absl::OkStatus();
    }
    thread_local Image buffers[2];
    Image& to = buffers[In(buffers[0]) ? 1 : 0];
    to.Resize(height, width, view_.channels);
    resize(view_, height, width, absl::MakeSpan(to.pixels(), to.row_bytes() * height));
    view_ = to.view();
    return absl::OkStatus();
  }
  bool In(const Image& image) const {
    const uint8_t* begin = image.view().pixels;
    return begin != nullptr && view_.pixels >= begin &&
           view_.pixels < begin + image.row_bytes() * image.height();
  }
  absl::Status Crop(const absl::StatusOr<Box>& box) {
    if (!box.ok()) return box.status();
    view_ = Cut(view_, *box);
    return absl::OkStatus();
  }

  ImageView view_;
  int last_height_ = 0, last_width_ = 0;
  absl::Span<uint8_t> last_;
};

}  // namespace

absl::Status ApplyImageOps(const std::vector<ImageOp>& ops, const ImageView& image, Draws& draws,
                           int height, int width, absl::Span<uint8_t> out) {
  VITSCALE_CHECK(static_cast<int64_t>(out.size()) == int64_t{height} * width * image.channels);
  Pipeline pipeline(image);
  for (size_t i = 0; i < ops.size(); ++i) {
    if (i + 1 == ops.size()) pipeline.LastGoesTo(height, width, out);
    VITSCALE_RETURN_IF_ERROR(pipeline.Apply(ops[i], draws));
  }
  const ImageView& view = pipeline.view();
  if (view.height != height || view.width != width) {
    return absl::InvalidArgumentError(absl::StrCat("the preprocessing makes ", view.height, "x",
                                                   view.width, " of it, the model wants ", height,
                                                   "x", width));
  }
  if (view.pixels == out.data()) return absl::OkStatus();
  const int64_t row = int64_t{width} * view.channels;
  for (int y = 0; y < height; ++y) std::copy_n(view.Row(y), row, out.data() + y * row);
  return absl::OkStatus();
}

}  // namespace vitscale
