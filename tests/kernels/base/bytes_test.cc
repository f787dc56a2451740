#include <string>

#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "kernels/base/crc32c.h"
#include "kernels/base/hash.h"
#include "kernels/base/philox.h"

namespace vitscale {
namespace {

std::string RandomBytes(size_t count) {
  Draws draws(1, DrawPurpose::kTest, 0, 0);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(draws.Bits());
  return bytes;
}

// RFC 3720, appendix B.4, and the check value of the CRC catalogue.
TEST(Crc32cTest, MatchesThePublishedValues) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising(32, '\0');
  for (int i = 0; i < 32; ++i) rising[i] = static_cast<char>(i);
  EXPECT_EQ(Crc32c(rising), 0x46dd794eu);
  EXPECT_EQ(Crc32c(""), 0u);
}

TEST(Crc32cTest, InstructionAndTableAgreeForEveryLengthAndAlignment) {
  const std::string bytes = RandomBytes(40000);
  for (size_t begin : {0, 1, 3, 8}) {
    for (size_t count : {0, 1, 7, 8, 9, 63, 4096, 12287, 12288, 12289, 24576, 39000}) {
      EXPECT_EQ(ExtendCrc32c(7, bytes.data() + begin, count),
                internal::ExtendCrc32cPortable(7, bytes.data() + begin, count))
          << begin << "+" << count;
    }
  }
}

TEST(Crc32cTest, PiecesGiveTheSameAsTheWhole) {
  const std::string bytes = RandomBytes(20000);
  for (size_t cut : {0, 1, 12288, 13000, 20000}) {
    uint32_t crc = ExtendCrc32c(0, bytes.data(), cut);
    crc = ExtendCrc32c(crc, bytes.data() + cut, bytes.size() - cut);
    EXPECT_EQ(crc, Crc32c(bytes)) << cut;
  }
}

TEST(Hash64Test, IsFixedAcrossReleasesAndSeesLengthOrderAndSeed) {
  EXPECT_NE(Hash64("a"), Hash64(absl::string_view("a\0", 2)));
  EXPECT_NE(Hash64("ab"), Hash64("ba"));
  EXPECT_NE(Hash64("ab"), Hash64("ab", 1));
  EXPECT_NE(CombineHash(CombineHash(0, 1), 2), CombineHash(CombineHash(0, 2), 1));
  // Stored in checkpoints (plan hashes) and databases (request hashes): a change of these two lines
  // breaks them.
  EXPECT_EQ(Hash64(""), 0x5692161d100b05e5ull);
  EXPECT_EQ(Hash64("vitscale.v1"), 0x9be1a40cb647b284ull);
}

}  // namespace
}  // namespace vitscale
