// What a device does at most, measured: one large bf16 matmul by cuBLASLt, and copies in its
// memory; beside it what its data sheet says (dense bf16), where that is known. Prints one line of
// JSON:
//
//   {"device": "NVIDIA H100 80GB HBM3", "matmul_tflops": 780.1,
//    "copy_gigabytes_per_second": 2900.5, "sheet_tflops": 989.0}
//
// Matmul: [8192, 8192] x [8192, 8192], operands drawn from [-1, 1), as long as a training step's
// power limit would make itself felt. Copy: 1 GiB, read and write counted.

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "worker/card/peak.h"

namespace {

constexpr int64_t kSide = 8192;
constexpr size_t kCopyBytes = size_t{1} << 30;
constexpr size_t kWorkspaceBytes = size_t{64} << 20;
constexpr int kRounds = 5;

[[noreturn]] void Fail(const char* what, const char* why) {
  std::printf("device-ceiling: %s: %s\n", what, why);
  std::exit(1);
}
void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) Fail(what, cudaGetErrorString(error));
}
void Check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) Fail(what, cublasLtGetStatusString(status));
}

// Seconds of one call: the median over rounds of `calls` each.
double SecondsOf(int calls, const std::function<void()>& call) {
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "event");
  Check(cudaEventCreate(&stop), "event");
  for (int i = 0; i < calls; ++i) call();
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    Check(cudaEventRecord(start, nullptr), "record");
    for (int i = 0; i < calls; ++i) call();
    Check(cudaEventRecord(stop, nullptr), "record");
    Check(cudaEventSynchronize(stop), "wait");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, start, stop), "elapsed time");
    rounds.push_back(milliseconds * 1e-3 / calls);
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds[kRounds / 2];
}

void* Allocate(size_t bytes) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, bytes), "memory");
  return memory;
}

void* RandomBf16(int64_t count) {
  std::vector<uint16_t> values(count);
  uint32_t state = 1;
  for (uint16_t& value : values) {
    state = state * 1664525u + 1013904223u;
    // A sign, an exponent that gives 1/8 to 1, and a mantissa.
    const uint32_t exponent = 124 + (state >> 20 & 3) % 3;
    value = static_cast<uint16_t>((state >> 31) << 15 | exponent << 7 | (state >> 8 & 127));
  }
  void* memory = Allocate(values.size() * sizeof(uint16_t));
  Check(cudaMemcpy(memory, values.data(), values.size() * sizeof(uint16_t), cudaMemcpyHostToDevice),
        "copy to the device");
  return memory;
}

double MatmulTflops() {
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t matmul;
  cublasLtMatrixLayout_t layout;
  cublasLtMatmulPreference_t preference;
  Check(cublasLtCreate(&handle), "cublasLtCreate");
  Check(cublasLtMatmulDescCreate(&matmul, CUBLAS_COMPUTE_32F, CUDA_R_32F), "matmul");
  Check(cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, kSide, kSide, kSide), "layout");
  Check(cublasLtMatmulPreferenceCreate(&preference), "preference");
  Check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
        "workspace");
  cublasLtMatmulHeuristicResult_t found[8];
  int count = 0;
  Check(cublasLtMatmulAlgoGetHeuristic(handle, matmul, layout, layout, layout, layout, preference,
                                       8, found, &count),
        "heuristic");
  const void* a = RandomBf16(kSide * kSide);
  const void* b = RandomBf16(kSide * kSide);
  void* c = Allocate(kSide * kSide * 2);
  void* workspace = Allocate(kWorkspaceBytes);
  const float one = 1, zero = 0;
  double best = 0;
  for (int i = 0; i < count; ++i) {
    const double seconds = SecondsOf(10, [&] {
      Check(cublasLtMatmul(handle, matmul, &one, a, layout, b, layout, &zero, c, layout, c, layout,
                           &found[i].algo, workspace, kWorkspaceBytes, nullptr),
            "matmul");
    });
    best = std::max(best, 2.0 * kSide * kSide * kSide / seconds / 1e12);
  }
  return best;
}

double CopyGigabytesPerSecond() {
  void* from = Allocate(kCopyBytes);
  void* to = Allocate(kCopyBytes);
  const double seconds = SecondsOf(10, [&] {
    Check(cudaMemcpyAsync(to, from, kCopyBytes, cudaMemcpyDeviceToDevice, nullptr), "copy");
  });
  return 2.0 * static_cast<double>(kCopyBytes) / seconds / 1e9;
}

}  // namespace

int main() {
  int devices = 0;
  Check(cudaGetDeviceCount(&devices), "no CUDA device");
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "device");
  const double tflops = MatmulTflops(), bytes = CopyGigabytesPerSecond();
  std::printf("{\"device\": \"%s\", \"matmul_tflops\": %.1f, \"copy_gigabytes_per_second\": %.1f",
              properties.name, tflops, bytes);
  const auto sheet = vitscale::PeakOfCard(properties.name, /*bf16=*/true);
  if (sheet) std::printf(", \"sheet_tflops\": %.1f", sheet->flops_per_second / 1e12);
  std::printf("}\n");
  return 0;
}
