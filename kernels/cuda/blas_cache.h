// Which algorithm cuBLASLt multiplies a shape with, as measured: kept in a file for each card,
// driver and library version, so that a machine measures once. Of any thread.

#ifndef KERNELS_CUDA_BLAS_CACHE_H_
#define KERNELS_CUDA_BLAS_CACHE_H_

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace vitscale::cuda {

// Shape, strides, dtypes, epilogue, alignments.
using MatmulKey = std::array<int64_t, 16>;

class AlgorithmCache {
 public:
  // `machine`: "NVIDIA H100 80GB HBM3, driver 580.159.04, cuBLASLt 130100".
  explicit AlgorithmCache(std::string machine) : machine_(std::move(machine)) {}

  // One for the process, so that all its backends choose alike, with what DefaultPath has of this
  // machine.
  static AlgorithmCache& OfProcess(const std::string& machine);
  std::string DefaultPath() const;  // in the state directory; one file per machine

  std::optional<cublasLtMatmulAlgo_t> Find(const MatmulKey& key) const;
  void Add(const MatmulKey& key, const cublasLtMatmulAlgo_t& algorithm);
  size_t size() const;

  // Adds what the file has and this does not. A file of another machine and lines that make no
  // sense add nothing; a missing file is OK.
  absl::Status Load(const std::string& path);
  // Writes all, if anything was added since the last time, over what other processes wrote
  // meanwhile.
  absl::Status SaveIfChanged(const std::string& path);

 private:
  void AddLine(absl::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Those of `lines` too.
  std::vector<std::string> Merged(const std::vector<std::string>& lines)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string machine_;
  mutable absl::Mutex mutex_;
  std::map<MatmulKey, cublasLtMatmulAlgo_t> algorithms_ ABSL_GUARDED_BY(mutex_);
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_BLAS_CACHE_H_
