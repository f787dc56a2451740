// A product as the stand-in for cuBLASLt makes it: column-major, in f32, in the order of k, and
// then its epilogue, element by element.

#ifndef TESTS_CUDA_ON_CPU_CUBLASLT_PRODUCT_H_
#define TESTS_CUDA_ON_CPU_CUBLASLT_PRODUCT_H_

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/cuda_on_cpu/cublaslt_descriptors.h"
#include "tests/cuda_on_cpu/cublaslt_rules.h"

namespace vitscale::cuda_on_cpu::blas {

// d = epilogue(alpha op(a) op(b) + beta c).
struct Task {
  Description description;
  Layout a_layout, b_layout, c_layout, d_layout;
  float alpha, beta;
  const void *a, *b, *c;
  void* d;

  void Run() const;
  // What it reads and writes.
  std::vector<Range> Ranges(const void* workspace, size_t workspace_bytes) const;

 private:
  void FinishColumn(int64_t column, const float* sums) const;
};

}  // namespace vitscale::cuda_on_cpu::blas

#endif  // TESTS_CUDA_ON_CPU_CUBLASLT_PRODUCT_H_
