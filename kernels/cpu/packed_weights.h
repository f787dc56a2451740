// The compute copies of weights: every Linear and LinearGradInput asks for one when it is prepared
// and reads it when it runs; PrepareWeights makes them anew from the f32 parameters. They belong to
// the backend, so that a program that updates parameters and another that uses them share them.
//
// A weight is known by the memory of its parts. All its copies are made from one blob [in, sum of
// out] in the compute dtype. A copy that was never made is made before the first run that needs it.

#ifndef KERNELS_CPU_PACKED_WEIGHTS_H_
#define KERNELS_CPU_PACKED_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/memory.h"

namespace vitscale::cpu {

// A weight bound to memory.
struct WeightKey {
  std::vector<const float*> parts;  // [in, outs[i]] each
  std::vector<int64_t> outs;
  int64_t in = 0;
  int64_t out() const;
  bool operator<(const WeightKey& other) const;
};
WeightKey BindWeight(const WeightParts& parts, const CpuOpBuilder& builder);

class PackedWeights {
 public:
  explicit PackedWeights(Isa isa) : isa_(isa) {}

  // The packed copy in `format`; stays where it is and is filled before the first run.
  absl::StatusOr<const void*> Get(const WeightKey& key, const WeightFormat& format);

  // Makes all copies of one weight anew, if it has any. `scratch` has BlobBytes(key).
  void Pack(const WeightKey& key, std::byte* scratch) const;
  static int64_t BlobBytes(const WeightKey& key);

  int64_t bytes() const;  // of all copies

  // Makes the copies that were never made.
  absl::Status PackNew();

 private:
  struct Copy {
    WeightFormat format;
    Memory memory;
    mutable bool made = false;
  };
  using Copies = std::vector<std::unique_ptr<Copy>>;

  void PackCopies(const WeightKey& key, const Copies& copies, bool only_new,
                  std::byte* scratch) const;

  Isa isa_;
  std::map<WeightKey, Copies> weights_;
  bool any_new_ = false;
};

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_PACKED_WEIGHTS_H_
