#include "kernels/cpu/packed_weights.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "kernels/base/status.h"
#include "kernels/cpu/elementwise.h"

namespace vitscale::cpu {
namespace {

// The parts side by side, rounded to bf16 or as they are.
void FillBlob(const WeightKey& key, bool bf16, const ElementwiseKernels& kernels, std::byte* blob) {
  const int64_t out = key.out();
  int64_t column = 0;
  for (size_t i = 0; i < key.parts.size(); column += key.outs[i], ++i) {
    for (int64_t row = 0; row < key.in; ++row) {
      const float* from = key.parts[i] + row * key.outs[i];
      const int64_t to = row * out + column;
      if (bf16) {
        kernels.to_bf16(from, reinterpret_cast<Bf16*>(blob) + to, key.outs[i]);
      } else {
        std::memcpy(reinterpret_cast<float*>(blob) + to, from, key.outs[i] * sizeof(float));
      }
    }
  }
}

class PrepareWeightsOp : public CpuOp {
 public:
  PrepareWeightsOp(std::vector<WeightKey> keys, const PackedWeights& weights)
      : keys_(std::move(keys)), weights_(weights) {}
  int64_t items(int /*phase*/) const override { return static_cast<int64_t>(keys_.size()); }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t i = begin; i < end; ++i) weights_.Pack(keys_[i], context.scratch);
  }

 private:
  std::vector<WeightKey> keys_;
  const PackedWeights& weights_;
};

}  // namespace

int64_t WeightKey::out() const {
  int64_t sum = 0;
  for (int64_t width : outs) sum += width;
  return sum;
}

bool WeightKey::operator<(const WeightKey& other) const {
  return std::tie(parts, outs, in) < std::tie(other.parts, other.outs, other.in);
}

WeightKey BindWeight(const WeightParts& parts, const CpuOpBuilder& builder) {
  WeightKey key;
  key.in = parts[0].shape[0];
  for (const TensorView& part : parts) {
    key.parts.push_back(builder.Memory<const float>(part));
    key.outs.push_back(part.shape[1]);
  }
  return key;
}

int64_t PackedWeights::BlobBytes(const WeightKey& key) {
  return key.in * key.out() * static_cast<int64_t>(sizeof(float));
}

absl::StatusOr<const void*> PackedWeights::Get(const WeightKey& key, const WeightFormat& format) {
  Copies& copies = weights_[key];
  for (const auto& copy : copies) {
    if (copy->format == format) return copy->memory.data();
  }
  auto copy = std::make_unique<Copy>();
  copy->format = format;
  VITSCALE_ASSIGN_OR_RETURN(
      copy->memory,
      Memory::Allocate(PackedBytes(format, isa_, key.in, key.out()), "packed weight"));
  copies.push_back(std::move(copy));
  any_new_ = true;
  return copies.back()->memory.data();
}

int64_t PackedWeights::bytes() const {
  int64_t bytes = 0;
  for (const auto& [key, copies] : weights_) {
    for (const auto& copy : copies) bytes += copy->memory.bytes();
  }
  return bytes;
}

void PackedWeights::PackCopies(const WeightKey& key, const Copies& copies, bool only_new,
                               std::byte* scratch) const {
  for (bool bf16 : {false, true}) {
    bool blob_made = false;
    for (const auto& copy : copies) {
      if (copy->format.bf16 != bf16 || (only_new && copy->made)) continue;
      if (!std::exchange(blob_made, true)) {
        FillBlob(key, bf16, ElementwiseKernelsFor(isa_), scratch);
      }
      PackWeight(copy->format, isa_, key.in, key.out(), scratch, copy->memory.data());
      copy->made = true;
    }
  }
}

void PackedWeights::Pack(const WeightKey& key, std::byte* scratch) const {
  const auto found = weights_.find(key);
  if (found != weights_.end()) PackCopies(key, found->second, /*only_new=*/false, scratch);
}

absl::Status PackedWeights::PackNew() {
  if (!any_new_) return absl::OkStatus();
  int64_t bytes = 0;
  for (const auto& [key, copies] : weights_) bytes = std::max(bytes, BlobBytes(key));
  VITSCALE_ASSIGN_OR_RETURN(const Memory scratch, Memory::Allocate(bytes, "weight packing"));
  for (const auto& [key, copies] : weights_) {
    PackCopies(key, copies, /*only_new=*/true, scratch.data());
  }
  any_new_ = false;
  return absl::OkStatus();
}

CpuOpOr MakeCpuOp(const PrepareWeightsArgs& args, CpuOpBuilder& builder) {
  std::vector<WeightKey> keys;
  for (const WeightParts& weight : args.weights) {
    keys.push_back(BindWeight(weight, builder));
    builder.RequestScratch(PackedWeights::BlobBytes(keys.back()));
  }
  return std::make_unique<PrepareWeightsOp>(std::move(keys), builder.weights());
}

}  // namespace vitscale::cpu
