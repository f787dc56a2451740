// What is measured: a model given by flags, and a replica of it on a device with random images.

#ifndef WORKER_BENCH_BENCH_MODEL_H_
#define WORKER_BENCH_BENCH_MODEL_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend_factory.h"
#include "kernels/base/command_line.h"
#include "nlohmann/json.hpp"
#include "worker/plan/plan.h"

namespace vitscale {

struct BenchOptions {
  std::string variant;  // empty: the custom shape
  ModelShape custom;
  int image_size = 224, channels = 3, classes = 1000, representation = 0;
  std::string device = "cpu";  // or "cuda:<index>"
  std::string pool = "map", loss = "sigmoid", position = "learned";
  std::string optimizer = "adafactor", precision = "bf16", instruction_set;
  std::string recompute = "auto", residual = "f32";
  int64_t batch = 32;
  int threads = 0;
  int steps = 10;
  std::string packed_weights = "persistent";  // "per_use"; step: "compare" both
  bool json = false;
  bool ceiling = true;  // measure what the machine could do, for the shares
  double peak_tflops = 0,
         peak_gigabytes_per_second = 0;  // > 0: instead of what is known or measured
  bool roofline = true;  // step: also the time and the own ceiling of each kind of op
};

// Flags: which model it is; AddModelFlags adds how it runs; AddDeviceFlag --device alone, AddRunFlags
// --steps and --json.
void AddShapeFlags(CLI::App& command, BenchOptions& options);
void AddDeviceFlag(CLI::App& command, BenchOptions& options);
void AddModelFlags(CLI::App& command, BenchOptions& options);
void AddRunFlags(CLI::App& command, BenchOptions& options);

absl::StatusOr<PlanRequest> RequestOf(const BenchOptions& options);
OptimizerConfig OptimizerConfigOf(const BenchOptions& options);

// Parameters initialised, images, labels and weights in place.
struct BenchReplica {
  Plan plan;
  std::unique_ptr<Backend> backend;
};
absl::StatusOr<BenchReplica> MakeBenchReplica(const BenchOptions& options);

// Model, machine and settings, for the head of every report.
nlohmann::json Describe(const BenchOptions& options, const BenchReplica& replica);

double Median(std::vector<double> values);

// Below the working directory if it is relative; empty stays empty.
std::string AbsolutePath(const std::string& path);

// Wall seconds of a call.
template <typename Call>
double SecondsOf(Call&& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace vitscale

#endif  // WORKER_BENCH_BENCH_MODEL_H_
