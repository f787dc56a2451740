// Digest on the CPU: the definition that every backend follows.
//
// An input is cut into blocks of 64 KiB. A block is a sequence of 64-bit little-endian words, the
// last one padded with zero bytes; its hash is the sum (mod 2^64) of Mix(word ^ key(i)) over its
// words, where i is the place in the block: a sum, so that any number of lanes may share a block.
// The digest folds, in order, for every input its length in bytes and then the hashes of its
// blocks. Not for security.

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/cpu/cpu_op.h"

namespace vitscale::cpu {
namespace {

constexpr int64_t kBlockBytes = 64 * 1024;
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;  // 2^64 / golden ratio

// The finalizer of SplitMix64: Steele, Lea and Flood, OOPSLA 2014.
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

inline uint64_t Word(const std::byte* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

uint64_t HashBlock(const std::byte* block, int64_t bytes) {
  const int64_t words = bytes / 8;
  uint64_t sums[4] = {0, 0, 0, 0};  // independent, so that the multiplier is never idle
  uint64_t key = kGolden;
  int64_t i = 0;
  for (; i + 4 <= words; i += 4, key += 4 * kGolden) {
    for (int lane = 0; lane < 4; ++lane) {
      sums[lane] += Mix(Word(block + (i + lane) * 8) ^ (key + lane * kGolden));
    }
  }
  for (; i < words; ++i, key += kGolden) sums[0] += Mix(Word(block + i * 8) ^ key);
  if (bytes % 8 != 0) {
    std::byte last[8] = {};
    std::memcpy(last, block + words * 8, bytes % 8);
    sums[0] += Mix(Word(last) ^ key);
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

struct Block {
  const std::byte* data;
  int64_t bytes;
};

class DigestOp : public CpuOp {
 public:
  DigestOp(const DigestArgs& args, CpuOpBuilder& builder)
      : digest_(builder.Memory<uint64_t>(args.digest)) {
    for (const TensorView& input : args.inputs) {
      const std::byte* data = builder.Memory<const std::byte>(input);
      lengths_.push_back(input.bytes());
      for (int64_t at = 0; at < input.bytes(); at += kBlockBytes) {
        blocks_.push_back({data + at, std::min(kBlockBytes, input.bytes() - at)});
      }
    }
    hashes_ = builder.Reserve<uint64_t>(static_cast<int64_t>(blocks_.size()));
  }
  int phases() const override { return 2; }
  int64_t items(int phase) const override {
    return phase == 0 ? static_cast<int64_t>(blocks_.size()) : 1;
  }
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override {
    if (phase == 1) return Fold();
    for (int64_t i = begin; i < end; ++i) hashes_[i] = HashBlock(blocks_[i].data, blocks_[i].bytes);
  }

 private:
  void Fold() {
    uint64_t digest = 0;
    const auto fold = [&digest](uint64_t value) { digest = Mix(digest * kGolden + value + 1); };
    int64_t block = 0;
    for (const int64_t length : lengths_) {
      fold(static_cast<uint64_t>(length));
      for (int64_t at = 0; at < length; at += kBlockBytes) fold(hashes_[block++]);
    }
    *digest_ = digest;
  }

  std::vector<Block> blocks_;
  std::vector<int64_t> lengths_;
  uint64_t* hashes_;  // of every block
  uint64_t* digest_;
};

}  // namespace

CpuOpOr MakeCpuOp(const DigestArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<DigestOp>(args, builder);
}

}  // namespace vitscale::cpu
