#include "kernels/base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace vitscale {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // bits reversed

constexpr std::array<std::array<uint32_t, 256>, 8> MakeTables() {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (int k = 1; k < 8; ++k) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}
constexpr auto kTables = MakeTables();

uint64_t LoadWord(const unsigned char* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));  // little-endian, like every machine this runs on
  return word;
}

#if defined(__x86_64__)
// The instruction takes 3 cycles but one can start each cycle: three streams of a block hide the
// latency, and are joined by shifting a CRC over the zeros of a stream's length, with a table per
// byte of the CRC.
constexpr size_t kStreamBytes = 4096;

constexpr uint32_t ShiftOverZeros(uint32_t crc, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) crc = (crc >> 8) ^ kTables[0][crc & 0xff];
  return crc;
}
using ShiftTable = std::array<std::array<uint32_t, 256>, 4>;
ShiftTable MakeShiftTable() {
  std::array<uint32_t, 32> of_bit{};
  for (int bit = 0; bit < 32; ++bit) of_bit[bit] = ShiftOverZeros(uint32_t{1} << bit, kStreamBytes);
  ShiftTable table{};
  for (int byte = 0; byte < 4; ++byte) {
    for (uint32_t value = 0; value < 256; ++value) {
      for (int bit = 0; bit < 8; ++bit) {
        if ((value >> bit & 1) != 0) table[byte][value] ^= of_bit[byte * 8 + bit];
      }
    }
  }
  return table;
}
uint32_t ShiftOneStream(const ShiftTable& table, uint32_t crc) {
  return table[0][crc & 0xff] ^ table[1][crc >> 8 & 0xff] ^ table[2][crc >> 16 & 0xff] ^
         table[3][crc >> 24];
}

__attribute__((target("sse4.2"))) uint32_t ExtendHardware(uint32_t start, const unsigned char* at,
                                                          size_t bytes) {
  static const ShiftTable table = MakeShiftTable();
  uint64_t crc = ~start;
  while (bytes >= 3 * kStreamBytes) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < kStreamBytes; i += 8) {
      crc = _mm_crc32_u64(crc, LoadWord(at + i));
      second = _mm_crc32_u64(second, LoadWord(at + kStreamBytes + i));
      third = _mm_crc32_u64(third, LoadWord(at + 2 * kStreamBytes + i));
    }
    crc = ShiftOneStream(table, static_cast<uint32_t>(crc)) ^ second;
    crc = ShiftOneStream(table, static_cast<uint32_t>(crc)) ^ third;
    at += 3 * kStreamBytes;
    bytes -= 3 * kStreamBytes;
  }
  for (; bytes >= 8; at += 8, bytes -= 8) crc = _mm_crc32_u64(crc, LoadWord(at));
  for (; bytes > 0; ++at, --bytes) crc = _mm_crc32_u8(static_cast<uint32_t>(crc), *at);
  return ~static_cast<uint32_t>(crc);
}
#endif

}  // namespace

namespace internal {

// Eight bytes a turn, one table each ("slicing by 8", Kounavis and Berry, ISCC 2005).
uint32_t ExtendCrc32cPortable(uint32_t start, const void* data, size_t bytes) {
  const unsigned char* at = static_cast<const unsigned char*>(data);
  uint32_t crc = ~start;
  for (; bytes >= 8; at += 8, bytes -= 8) {
    const uint64_t word = LoadWord(at) ^ crc;
    crc = 0;
    for (int k = 0; k < 8; ++k) crc ^= kTables[7 - k][word >> (8 * k) & 0xff];
  }
  for (; bytes > 0; ++at, --bytes) crc = (crc >> 8) ^ kTables[0][(crc ^ *at) & 0xff];
  return ~crc;
}

}  // namespace internal

uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t bytes) {
#if defined(__x86_64__)
  static const bool hardware = __builtin_cpu_supports("sse4.2");
  if (hardware) return ExtendHardware(crc, static_cast<const unsigned char*>(data), bytes);
#endif
  return internal::ExtendCrc32cPortable(crc, data, bytes);
}

}  // namespace vitscale
