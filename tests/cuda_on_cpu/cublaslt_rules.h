// What cuBLASLt's header and manual forbid: shapes, types, epilogues, and memory that overlaps.

#ifndef TESTS_CUDA_ON_CPU_CUBLASLT_RULES_H_
#define TESTS_CUDA_ON_CPU_CUBLASLT_RULES_H_

#include <cublasLt.h>

#include <cstdint>
#include <vector>

#include "tests/cuda_on_cpu/cublaslt_descriptors.h"

namespace vitscale::cuda_on_cpu::blas {

struct Product {
  const Description& description;
  const Layout &a, &b, &c, &d;
  bool transpose_a() const { return description.transposed(CUBLASLT_MATMUL_DESC_TRANSA); }
  bool transpose_b() const { return description.transposed(CUBLASLT_MATMUL_DESC_TRANSB); }
  int64_t inner() const { return transpose_a() ? a.rows : a.columns; }
};

// The first rule that the product breaks.
cublasStatus_t Check(const Product& product);

struct Range {
  const char* name;
  const void* begin;
  int64_t bytes;
  bool writes;

  bool Overlaps(const Range& other) const {
    const auto *mine = static_cast<const std::byte*>(begin),
               *its = static_cast<const std::byte*>(other.begin);
    return mine < its + other.bytes && its < mine + bytes;
  }
};

// Every operand lies in device memory (else it faults), and nothing that is written overlaps
// anything else.
cublasStatus_t CheckRanges(const std::vector<Range>& ranges);

}  // namespace vitscale::cuda_on_cpu::blas

#endif  // TESTS_CUDA_ON_CPU_CUBLASLT_RULES_H_
