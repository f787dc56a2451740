// What tests may change of the stand-in for cuBLASLt.

#ifndef TESTS_CUDA_ON_CPU_CUBLASLT_STANDIN_H_
#define TESTS_CUDA_ON_CPU_CUBLASLT_STANDIN_H_

namespace vitscale::cuda_on_cpu {

// The library has no algorithm with this epilogue (a cublasLtEpilogue_t), or with all again (0).
void RefuseEpilogue(int epilogue);

// For every product as many algorithms, all of them the same; default 1.
void OfferAlgorithms(int count);

// Why the last call that was refused was, as the header puts it: "aux leading dimension is 12, want
// a multiple of 8".
const char* LastBlasRefusal();

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_CUBLASLT_STANDIN_H_
