#include "worker/data/gzip_reader.h"

#include <zlib.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {
constexpr int64_t kInputBytes = 1 << 18;
constexpr int kGzipOnly = 16 + MAX_WBITS;  // of inflateInit2
}  // namespace

struct GzipReader::Inflater {
  z_stream stream{};
  std::string input = std::string(kInputBytes, '\0');
  bool between_members = false;  // a member has ended; the next bytes, if any, start another
};

void GzipReader::InflaterDelete::operator()(Inflater* inflater) const {
  (void)inflateEnd(&inflater->stream);
  delete inflater;
}

absl::StatusOr<GzipReader> GzipReader::Open(FileSystem& fs, const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file, fs.Open(path));
  GzipReader reader(path, std::move(file));
  char magic[2] = {};
  if (reader.file_->size() >= 2) {
    VITSCALE_RETURN_IF_ERROR(reader.file_->ReadAt(0, absl::MakeSpan(magic)));
  }
  if (static_cast<uint8_t>(magic[0]) != 0x1f || static_cast<uint8_t>(magic[1]) != 0x8b) {
    return reader;
  }
  reader.inflater_.reset(new Inflater);
  if (inflateInit2(&reader.inflater_->stream, kGzipOnly) != Z_OK) {
    return absl::ResourceExhaustedError(absl::StrCat("'", path, "': zlib could not start"));
  }
  return reader;
}

absl::StatusOr<int64_t> GzipReader::Read(absl::Span<uint8_t> bytes) {
  return inflater_ == nullptr ? ReadPlain(bytes) : ReadGzip(bytes);
}

absl::StatusOr<int64_t> GzipReader::ReadPlain(absl::Span<uint8_t> bytes) {
  const int64_t wanted =
      std::min<int64_t>(static_cast<int64_t>(bytes.size()), file_->size() - offset_);
  VITSCALE_RETURN_IF_ERROR(file_->ReadAt(
      offset_, absl::MakeSpan(reinterpret_cast<char*>(bytes.data()), static_cast<size_t>(wanted))));
  offset_ += wanted;
  return wanted;
}

// Reads more compressed bytes once the last ones are used up; at the end of the file avail_in stays
// 0.
absl::Status GzipReader::FillInput() {
  z_stream& stream = inflater_->stream;
  if (stream.avail_in > 0) return absl::OkStatus();
  const int64_t count = std::min(kInputBytes, file_->size() - offset_);
  VITSCALE_RETURN_IF_ERROR(
      file_->ReadAt(offset_, absl::MakeSpan(inflater_->input.data(), static_cast<size_t>(count))));
  offset_ += count;
  stream.next_in = reinterpret_cast<Bytef*>(inflater_->input.data());
  stream.avail_in = static_cast<uInt>(count);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> GzipReader::ReadGzip(absl::Span<uint8_t> bytes) {
  z_stream& stream = inflater_->stream;
  int64_t done = 0;
  while (done < static_cast<int64_t>(bytes.size())) {
    VITSCALE_RETURN_IF_ERROR(FillInput());
    if (inflater_->between_members) {
      if (stream.avail_in == 0) return done;  // a good end
      (void)inflateReset(&stream);
      inflater_->between_members = false;
    }
    if (stream.avail_in == 0) {
      return absl::DataLossError(absl::StrCat("'", path_, "': truncated gzip: the file ends at ",
                                              offset_, " bytes, inside of the stream"));
    }
    const int64_t piece = std::min<int64_t>(static_cast<int64_t>(bytes.size()) - done, 1 << 30);
    stream.next_out = bytes.data() + done;
    stream.avail_out = static_cast<uInt>(piece);
    const int result = inflate(&stream, Z_NO_FLUSH);
    done += piece - stream.avail_out;
    if (result == Z_STREAM_END) {
      inflater_->between_members = true;
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      return absl::DataLossError(absl::StrCat("'", path_, "': broken gzip near byte ",
                                              offset_ - stream.avail_in, ": ",
                                              stream.msg == nullptr ? zError(result) : stream.msg));
    }
  }
  return done;
}

}  // namespace vitscale
