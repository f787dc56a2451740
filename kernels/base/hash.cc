#include "kernels/base/hash.h"

#include <cstring>

namespace vitscale {

uint64_t MixBits(uint64_t value) {
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ value >> 27) * 0x94d049bb133111ebull;
  return value ^ value >> 31;
}

uint64_t Hash64(absl::string_view bytes, uint64_t seed) {
  uint64_t hash = CombineHash(seed, bytes.size());
  while (!bytes.empty()) {
    uint64_t word = 0;  // the last one is padded with zeros; the length above tells it apart
    const size_t taken = bytes.size() < sizeof(word) ? bytes.size() : sizeof(word);
    std::memcpy(&word, bytes.data(), taken);
    hash = CombineHash(hash, word);
    bytes.remove_prefix(taken);
  }
  return hash;
}

}  // namespace vitscale
