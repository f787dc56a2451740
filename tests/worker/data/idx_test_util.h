// Writes IDX files for tests.

#ifndef TESTS_WORKER_DATA_IDX_TEST_UTIL_H_
#define TESTS_WORKER_DATA_IDX_TEST_UTIL_H_

#include <zlib.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"

namespace vitscale {

// Header of unsigned bytes with these dimensions.
inline std::string IdxHeader(const std::vector<uint32_t>& dims) {
  std::string bytes = {0, 0, 8, static_cast<char>(dims.size())};
  for (const uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(dim >> shift));
  }
  return bytes;
}

inline std::string Gzip(const std::string& bytes) {
  std::string result(compressBound(bytes.size()) + 64, '\0');
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  result.resize(stream.total_out);
  deflateEnd(&stream);
  return result;
}

inline void WriteBytes(FileSystem& fs, const std::string& path, const std::string& bytes) {
  (void)fs.Remove(path);
  VITSCALE_ASSERT_OK_AND_ASSIGN(auto file, fs.CreateExclusive(path));
  ASSERT_THAT(file->Append(bytes), IsOk());
  ASSERT_THAT(file->Close(), IsOk());
}

}  // namespace vitscale

#endif  // TESTS_WORKER_DATA_IDX_TEST_UTIL_H_
