// Which algorithm cuBLASLt multiplies a shape with, as measured: kept in a file for each card,
// driver and library version, so that a machine measures once.

#ifndef KERNELS_CUDA_BLAS_CACHE_H_
#define KERNELS_CUDA_BLAS_CACHE_H_

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace vitscale::cuda {

// Shape, strides, dtypes, epilogue, alignments.
using MatmulKey = std::array<int64_t, 16>;

class AlgorithmCache {
 public:
  // `machine`: "NVIDIA H100 80GB HBM3, driver 13000, cuBLASLt 130100".
  explicit AlgorithmCache(std::string machine) : machine_(std::move(machine)) {}

  // One for the process, so that all its backends choose alike, with what DefaultPath has of this
  // machine.
  static AlgorithmCache& OfProcess(const std::string& machine);
  std::string DefaultPath() const;  // in the state directory; one file per machine

  const cublasLtMatmulAlgo_t* Find(const MatmulKey& key) const;  // null if there is none
  void Add(const MatmulKey& key, const cublasLtMatmulAlgo_t& algorithm);
  size_t size() const { return algorithms_.size(); }

  // Adds what the file has and this does not. A file of another machine and lines that make no
  // sense add nothing; a missing file is OK.
  absl::Status Load(const std::string& path);
  // Writes all, if anything was added since the last time, over what other processes wrote
  // meanwhile.
  absl::Status SaveIfChanged(const std::string& path);

 private:
  void AddLine(absl::string_view line);

  std::string machine_;
  std::map<MatmulKey, cublasLtMatmulAlgo_t> algorithms_;
  bool changed_ = false;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_BLAS_CACHE_H_
