// How fast one worker of some machine is, op by op: what `vitscale-bench probe` measures in a few
// seconds and stores, and what the plan predicts step times from. A text file, so that it can be
// read and carried to where the planning is done.
//
//   vitscale-rates 1
//   device AMD EPYC (avx512_bf16, oneDNN 2.6.3)
//   measured 2026-11-26T06:00:00Z
//   threads 2
//   memory_bytes_per_second 5.1e+10
//   wire_bytes_per_second 8e+09
//   ceiling bf16 4.6e+11
//   op bf16 Linear 384 4.1e+11        precision, op, model width, work per second
//
// Work is FLOPs of matmuls where an op has any, else bytes of its operands (cost.h).

#ifndef WORKER_PLAN_MACHINE_RATES_H_
#define WORKER_PLAN_MACHINE_RATES_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/model_config.h"
#include "worker/plan/cost.h"

namespace vitscale {

class MachineRates {
 public:
  std::string device, measured;  // for people
  int threads = 0;
  double memory_bytes_per_second = 0;
  double wire_bytes_per_second = 0;  // of one rank's share in sums with others; 0: unknown
  std::map<Precision, double> ceiling_flops_per_second;

  void Add(Precision precision, const std::string& op, int width, double work_per_second);

  // Of one op of a model of this width: between two measured widths by their logarithm, beyond them
  // as the nearest. An op that was never measured takes what its arithmetic takes at the ceiling or
  // its operands at the memory's rate, whichever is longer.
  double Seconds(Precision precision, const std::string& op, int width, const OpCost& cost) const;
  bool Knows(Precision precision) const;

  std::string ToText() const;
  // INVALID_ARGUMENT naming the line.
  static absl::StatusOr<MachineRates> Parse(absl::string_view text);

 private:
  using ByWidth = std::map<int, double>;
  std::map<std::pair<Precision, std::string>, ByWidth> ops_;
};

// Where the probe writes and the plan looks: rates.txt in the state directory.
std::string DefaultRatesPath();
// NOT_FOUND says how to make the file.
absl::StatusOr<MachineRates> ReadRates(const std::string& path);

}  // namespace vitscale

#endif  // WORKER_PLAN_MACHINE_RATES_H_
