#include "worker/bench/ceiling.h"

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "worker/bench/bench_model.h"

namespace vitscale {
namespace {

// Two multiply-adds a cycle with a latency of 4 need 8 accumulators; more hide what is not perfect.
constexpr int kAccumulators = 20;
constexpr int kRounds = 4096;

// Each loop gives the floating-point operations it did. The volatile sum keeps the work.
volatile float g_sink;

__attribute__((target("avx512f,avx512bf16"), noinline)) double Bf16Zmm() {
  const __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f803f80),
                 b = (__m512bh)_mm512_set1_epi32(0x38803880);
  __m512 sum[kAccumulators];
  for (auto& s : sum) s = _mm512_setzero_ps();
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 20
    for (int i = 0; i < kAccumulators; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
  }
  for (int i = 1; i < kAccumulators; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  g_sink = _mm512_reduce_add_ps(sum[0]);
  return 64.0 * kAccumulators * kRounds;
}

__attribute__((target("avx512f"), noinline)) double FmaZmm() {
  const __m512 a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(6e-5f);
  __m512 sum[kAccumulators];
  for (auto& s : sum) s = _mm512_setzero_ps();
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 20
    for (int i = 0; i < kAccumulators; ++i) sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
  }
  for (int i = 1; i < kAccumulators; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  g_sink = _mm512_reduce_add_ps(sum[0]);
  return 32.0 * kAccumulators * kRounds;
}

constexpr int kYmmAccumulators = 12;  // there are 16 registers

__attribute__((target("avx2,fma"), noinline)) double FmaYmm() {
  const __m256 a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(6e-5f);
  __m256 sum[kYmmAccumulators];
  for (auto& s : sum) s = _mm256_setzero_ps();
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kYmmAccumulators; ++i) sum[i] = _mm256_fmadd_ps(a, b, sum[i]);
  }
  for (int i = 1; i < kYmmAccumulators; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  float lanes[8];
  _mm256_storeu_ps(lanes, sum[0]);
  g_sink = lanes[0];
  return 16.0 * kYmmAccumulators * kRounds;
}

struct Loop {
  double (*run)();
  const char* instruction;
};
Loop BestLoop(Precision precision) {
  if (precision == Precision::kBf16 && __builtin_cpu_supports("avx512bf16"))
    return {Bf16Zmm, "vdpbf16ps zmm"};
  if (__builtin_cpu_supports("avx512f")) return {FmaZmm, "fma zmm"};
  return {FmaYmm, "fma ymm"};
}

// All threads start together and count what they did until the time is over.
double RatePerSecond(const Loop& loop, int threads, double seconds) {
  std::atomic<int> waiting{threads};
  std::vector<double> rates(threads);
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) {
    pool.emplace_back([&, i] {
      loop.run();  // raises the clock
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      double flops = 0;
      const auto start = std::chrono::steady_clock::now();
      std::chrono::duration<double> elapsed{};
      while (elapsed.count() < seconds) {
        flops += loop.run();
        elapsed = std::chrono::steady_clock::now() - start;
      }
      rates[i] = flops / elapsed.count();
    });
  }
  double sum = 0;
  for (int i = 0; i < threads; ++i) {
    pool[i].join();
    sum += rates[i];
  }
  return sum;
}

// Memory of one thread as the backend has its own: in huge pages where the system gives them. Null
// when there is none.
struct Block {
  explicit Block(int64_t count) : bytes(count * sizeof(float)) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    floats = static_cast<float*>(memory);
    std::fill_n(floats, count, 1.0f);
  }
  ~Block() {
    if (floats != nullptr) (void)munmap(floats, bytes);
  }
  Block(const Block&) = delete;
  size_t bytes;
  float* floats = nullptr;
};

// Seconds of a pass over arrays of `floats` each, a multiple of 4.
double TriadSeconds(float* a, const float* b, const float* c, int64_t floats) {
  const __m128 s = _mm_set1_ps(0.5f);
  return SecondsOf([&] {
    for (int64_t i = 0; i < floats; i += 4)
      _mm_stream_ps(a + i, _mm_add_ps(_mm_load_ps(b + i), _mm_mul_ps(s, _mm_load_ps(c + i))));
    _mm_sfence();
  });
}

}  // namespace

double MeasureTriadBytesPerSecond(int threads, int64_t bytes) {
  if (threads <= 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  const int64_t floats = std::max<int64_t>(64, bytes / 3 / 4 / threads / 64 * 64);
  std::atomic<int> waiting{threads};
  std::vector<double> rates(threads);
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) {
    pool.emplace_back([&, i] {
      const Block block(3 * floats);
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      if (block.floats == nullptr) return;
      std::vector<double> seconds;
      for (int round = 0; round < 5; ++round) {
        float* a = block.floats;
        seconds.push_back(TriadSeconds(a, a + floats, a + 2 * floats, floats));
      }
      rates[i] = 12.0 * static_cast<double>(floats) / Median(seconds);
      g_sink = block.floats[floats / 2];
    });
  }
  double sum = 0;
  for (int i = 0; i < threads; ++i) {
    pool[i].join();
    sum += rates[i];
  }
  return sum;
}

Ceiling MeasureCeiling(Precision precision, int threads, double seconds) {
  if (threads <= 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  const Loop loop = BestLoop(precision);
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) rates.push_back(RatePerSecond(loop, threads, seconds));
  return {Median(rates), loop.instruction};
}

}  // namespace vitscale
