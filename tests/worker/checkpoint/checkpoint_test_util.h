// A small state and the calls that save and load it, for the tests of worker/checkpoint.

#ifndef TESTS_WORKER_CHECKPOINT_CHECKPOINT_TEST_UTIL_H_
#define TESTS_WORKER_CHECKPOINT_CHECKPOINT_TEST_UTIL_H_

#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {

inline void PrintTo(const CheckpointName& name, std::ostream* to) { *to << name.Text(); }

inline constexpr char kTestDir[] = "/runs";
inline constexpr char kTestJob[] = "k3j9x1m2p0qa";

// Two parameters with momentum; every value is `value`.
struct TestState {
  explicit TestState(float value = 0) : kernel(6, value), bias(3, value), momentum(6, 0) {
    for (uint16_t& element : momentum) element = static_cast<uint16_t>(value);
  }
  std::vector<float> kernel, bias;
  std::vector<uint16_t> momentum;

  std::vector<TensorTarget> Targets() {
    return {{"params/head/kernel", DType::kF32, {2, 3}, Bytes(kernel)},
            {"params/head/bias", DType::kF32, {3}, Bytes(bias)},
            {"momentum/head/kernel", DType::kBf16, {2, 3}, Bytes(momentum)}};
  }
  // The share of one rank of two: the kernel, or the rest.
  std::vector<NamedTensor> Share(int rank) {
    std::vector<NamedTensor> tensors;
    for (const TensorTarget& target : Targets()) {
      const bool first = target.name == "params/head/kernel";
      if (first == (rank == 0))
        tensors.push_back({target.name, target.dtype, target.shape, target.to});
    }
    return tensors;
  }
  bool operator==(const TestState&) const = default;

 private:
  template <typename T>
  static absl::Span<std::byte> Bytes(std::vector<T>& values) {
    return absl::MakeSpan(reinterpret_cast<std::byte*>(values.data()), values.size() * sizeof(T));
  }
};

inline CheckpointManifest TestManifest(const CheckpointName& name, std::vector<PartFile> files,
                                       int64_t lineage = 1) {
  CheckpointManifest manifest;
  manifest.job_id = kTestJob;
  manifest.name = name;
  manifest.lineage = lineage;
  manifest.images = name.step * 256;
  manifest.digest = 0x0123456789abcdefull;
  manifest.seed = 7;
  manifest.plan_hash = 0xfedcba9876543210ull;
  manifest.numerics = {"cpu", "3f2a91c", "avx512_bf16", "oneDNN 2.6.3", link::Precision::kBf16,
                       2,     128,       "gloo_ring",   1 << 25,        "none"};
  manifest.spec = "name: test\n";
  manifest.version = "0.1.0";
  manifest.time = absl::FromUnixSeconds(1'700'000'123) + absl::Milliseconds(456);
  manifest.files = std::move(files);
  return manifest;
}

// What two ranks do, one after the other.
inline absl::Status Save(CheckpointStore& store, const CheckpointName& name, TestState& state,
                         int64_t lineage = 1) {
  std::vector<PartFile> files;
  for (int rank = 0; rank < 2; ++rank) {
    VITSCALE_RETURN_IF_ERROR(store.Begin(name));
    VITSCALE_ASSIGN_OR_RETURN(PartFile file, store.WritePart(name, rank, 2, state.Share(rank)));
    files.push_back(std::move(file));
  }
  return store.WriteManifest(TestManifest(name, std::move(files), lineage));
}

}  // namespace vitscale

#endif  // TESTS_WORKER_CHECKPOINT_CHECKPOINT_TEST_UTIL_H_
