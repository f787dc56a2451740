#include "worker/data/idx_source.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/data/gzip_reader.h"

namespace vitscale {
namespace {

constexpr uint8_t kUnsignedByte = 0x08;

absl::Status Broken(const std::string& path, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("IDX file '", path, "': ", what));
}

absl::Status ReadHeaderBytes(GzipReader& reader, const std::string& path, absl::Span<uint8_t> bytes,
                             absl::string_view what) {
  VITSCALE_ASSIGN_OR_RETURN(const int64_t got, reader.Read(bytes));
  if (got == static_cast<int64_t>(bytes.size())) return absl::OkStatus();
  return Broken(path,
                absl::StrCat("truncated in its ", what, ": ", got, " of ", bytes.size(), " bytes"));
}

absl::StatusOr<int> ReadMagic(GzipReader& reader, const std::string& path, int dims_min,
                              int dims_max) {
  uint8_t magic[4];
  VITSCALE_RETURN_IF_ERROR(ReadHeaderBytes(reader, path, absl::MakeSpan(magic), "magic number"));
  const int dims = magic[3];
  const bool good = magic[0] == 0 && magic[1] == 0 && magic[2] == kUnsignedByte &&
                    dims >= dims_min && dims <= dims_max;
  if (good) return dims;
  std::string want = absl::StrFormat("0x%08x", kUnsignedByte << 8 | dims_min);
  if (dims_max > dims_min)
    absl::StrAppendFormat(&want, " to 0x%08x", kUnsignedByte << 8 | dims_max);
  return Broken(path, absl::StrFormat("magic number is 0x%02x%02x%02x%02x, want %s (unsigned bytes "
                                      "of %d%s dimensions)",
                                      magic[0], magic[1], magic[2], magic[3], want, dims_min,
                                      dims_max > dims_min ? absl::StrCat(" to ", dims_max) : ""));
}

absl::StatusOr<std::vector<int64_t>> ReadDims(GzipReader& reader, const std::string& path,
                                              int count) {
  std::vector<uint8_t> bytes(4 * count);
  VITSCALE_RETURN_IF_ERROR(ReadHeaderBytes(reader, path, absl::MakeSpan(bytes), "dimensions"));
  std::vector<int64_t> dims;
  for (int i = 0; i < count; ++i) {
    const uint8_t* at = bytes.data() + 4 * i;
    dims.push_back(int64_t{at[0]} << 24 | at[1] << 16 | at[2] << 8 | at[3]);
  }
  int64_t elements = 1;
  for (const int64_t dim : dims) {
    if (dim == 0) {
      return Broken(path, absl::StrCat("dimensions are [", absl::StrJoin(dims, ", "),
                                       "], want none to be 0"));
    }
    if (elements > kIdxBytesMax / dim) {
      return absl::ResourceExhaustedError(
          absl::StrCat("IDX file '", path, "': dimensions [", absl::StrJoin(dims, ", "),
                       "] are more than the limit of ", kIdxBytesMax, " bytes"));
    }
    elements *= dim;
  }
  return dims;
}

// Reads `wanted` elements and keeps the first `kept`. A header that promises more than the file
// holds costs no more memory than what is really there.
absl::StatusOr<std::vector<uint8_t>> ReadElements(GzipReader& reader, const std::string& path,
                                                  int64_t wanted, int64_t kept) {
  constexpr int64_t kPiece = int64_t{16} << 20;
  std::vector<uint8_t> elements, dropped;
  for (int64_t done = 0; done < wanted;) {
    const bool keep = done < kept;
    const int64_t piece = std::min(kPiece, (keep ? kept : wanted) - done);
    std::vector<uint8_t>& to = keep ? elements : dropped;
    const size_t begin = keep ? elements.size() : 0;
    if (keep && elements.capacity() < begin + piece) {
      elements.reserve(std::min<size_t>(kept, 2 * (begin + piece)));
    }
    to.resize(begin + piece);
    VITSCALE_ASSIGN_OR_RETURN(const int64_t got,
                              reader.Read(absl::MakeSpan(to.data() + begin, piece)));
    done += got;
    if (got < piece) {
      return Broken(path,
                    absl::StrCat("truncated: ", done, " elements, its dimensions want ", wanted));
    }
  }
  uint8_t one_more;
  VITSCALE_ASSIGN_OR_RETURN(const int64_t trailing, reader.Read(absl::MakeSpan(&one_more, 1)));
  if (trailing > 0) {
    return Broken(path, absl::StrCat("trailing bytes after the ", wanted,
                                     " elements that its dimensions want"));
  }
  return elements;
}

class IdxSource : public ImageSource {
 public:
  IdxSource(std::string path, IdxFile images, IdxFile labels)
      : path_(std::move(path)), images_(std::move(images)), labels_(std::move(labels)) {
    classes_seen_ = 1 + *std::max_element(labels_.elements.begin(), labels_.elements.end());
  }
  int64_t size() const override { return images_.dims[0]; }
  int height() const override { return static_cast<int>(images_.dims[1]); }
  int width() const override { return static_cast<int>(images_.dims[2]); }
  int channels() const override {
    return images_.dims.size() == 4 ? static_cast<int>(images_.dims[3]) : 1;
  }
  int classes_seen() const override { return classes_seen_; }
  int32_t label(int64_t index) const override { return labels_.elements[index]; }

  absl::Status Read(int64_t index, absl::Span<uint8_t> pixels) const override {
    VITSCALE_CHECK(index >= 0 && index < size()) << "image " << index << " of " << size();
    VITSCALE_CHECK(static_cast<int64_t>(pixels.size()) == image_bytes());
    std::copy_n(images_.elements.data() + index * image_bytes(), image_bytes(), pixels.data());
    return absl::OkStatus();
  }
  std::string description() const override {
    return absl::StrCat("idx '", path_, "': ", size(), " images of ", height(), "x", width(), "x",
                        channels(), ", ", classes_seen_, " classes");
  }

 private:
  std::string path_;
  IdxFile images_, labels_;
  int classes_seen_;
};

absl::Status CheckLabels(const std::string& path, const std::vector<uint8_t>& labels, int classes) {
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] >= classes) {
      return Broken(path, absl::StrCat("label ", i, " is ", labels[i], ", want 0 to ", classes - 1,
                                       " (the model has ", classes, " classes)"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<IdxFile> ReadIdx(FileSystem& fs, const std::string& path, int dims_min, int dims_max,
                                int64_t take) {
  VITSCALE_ASSIGN_OR_RETURN(GzipReader reader, GzipReader::Open(fs, path));
  VITSCALE_ASSIGN_OR_RETURN(const int count, ReadMagic(reader, path, dims_min, dims_max));
  IdxFile file;
  VITSCALE_ASSIGN_OR_RETURN(file.dims, ReadDims(reader, path, count));
  int64_t entry = 1;
  for (int i = 1; i < count; ++i) entry *= file.dims[i];
  const int64_t there = file.dims[0];
  if (take > 0) file.dims[0] = std::min(there, take);
  VITSCALE_ASSIGN_OR_RETURN(file.elements,
                            ReadElements(reader, path, there * entry, file.dims[0] * entry));
  return file;
}

absl::StatusOr<std::unique_ptr<ImageSource>> OpenIdxSource(FileSystem& fs,
                                                           const std::vector<std::string>& roots,
                                                           const DataSourceConfig& config,
                                                           const SourceRequest& request) {
  const auto path_of = [&](const std::string& field,
                           const std::string& path) -> absl::StatusOr<std::string> {
    auto resolved = ResolveBelow(fs, roots, path, MustExist::kYes);
    if (!resolved.ok()) return Annotate(resolved.status(), field);
    return resolved;
  };
  VITSCALE_ASSIGN_OR_RETURN(const std::string images_path, path_of("images", config.images));
  VITSCALE_ASSIGN_OR_RETURN(const std::string labels_path, path_of("labels", config.labels));
  // Labels first: they are small, and a wrong number of classes need not wait for the images.
  VITSCALE_ASSIGN_OR_RETURN(IdxFile labels, ReadIdx(fs, labels_path, 1, 1, 0));
  VITSCALE_RETURN_IF_ERROR(CheckLabels(labels_path, labels.elements, request.classes));
  VITSCALE_ASSIGN_OR_RETURN(IdxFile images, ReadIdx(fs, images_path, 3, 4, config.take));
  const int64_t expected = config.take > 0 ? std::min(config.take, labels.dims[0]) : labels.dims[0];
  if (images.dims[0] != expected) {
    return absl::DataLossError(absl::StrCat("IDX files '", images_path, "' and '", labels_path,
                                            "': ", images.dims[0], " images and ", labels.dims[0],
                                            " labels, want as many of each"));
  }
  labels.dims[0] = expected;
  labels.elements.resize(expected);
  return std::make_unique<IdxSource>(images_path, std::move(images), std::move(labels));
}

}  // namespace vitscale
