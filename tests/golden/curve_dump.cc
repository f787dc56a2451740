// golden_curve_dump FILE [STEPS]: writes what an independent implementation needs to train the same
// run, and our losses. See curve_study.py.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/base/files.h"
#include "kernels/base/status.h"
#include "tests/golden/curve_run.h"
#include "worker/checkpoint/tensor_file.h"

namespace vitscale::golden {
namespace {

template <typename T>
absl::Span<const std::byte> BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)};
}

struct Curve {
  std::vector<double> losses;
  std::vector<int64_t> samples;
  std::vector<uint8_t> flips;
};

absl::StatusOr<Curve> RunSteps(CurveRun& run, int64_t steps) {
  Curve curve;
  for (int64_t i = 0; i < steps; ++i) {
    VITSCALE_ASSIGN_OR_RETURN(const CurveStep step, run.Step());
    curve.losses.push_back(step.loss);
    curve.samples.insert(curve.samples.end(), step.samples.begin(), step.samples.end());
    curve.flips.insert(curve.flips.end(), step.flips.begin(), step.flips.end());
  }
  return curve;
}

absl::Status Dump(const std::string& path, int64_t steps) {
  VITSCALE_ASSIGN_OR_RETURN(const std::unique_ptr<CurveRun> run, CurveRun::Open());
  std::vector<std::vector<std::byte>> initial;
  std::vector<NamedTensor> tensors;
  for (const StateTensor& t : run->replica().State()) {
    if (t.name.rfind("params/", 0) != 0) continue;
    std::vector<std::byte>& bytes = initial.emplace_back(t.view.bytes());
    VITSCALE_RETURN_IF_ERROR(run->replica().ReadState(t, 0, absl::MakeSpan(bytes)));
    tensors.push_back({t.name, t.view.dtype, t.view.shape, {}});
  }
  for (size_t i = 0; i < tensors.size(); ++i) tensors[i].bytes = initial[i];
  VITSCALE_ASSIGN_OR_RETURN(const Curve curve, RunSteps(*run, steps));
  const int64_t batch = static_cast<int64_t>(curve.samples.size()) / steps;
  tensors.push_back({"losses", DType::kF64, {steps}, BytesOf(curve.losses)});
  tensors.push_back({"samples", DType::kI64, {steps, batch}, BytesOf(curve.samples)});
  tensors.push_back({"flips", DType::kU8, {steps, batch}, BytesOf(curve.flips)});
  return WriteTensorFile(PosixFileSystem(), path, tensors, {}).status();
}

}  // namespace
}  // namespace vitscale::golden

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: golden_curve_dump FILE [STEPS]\n");
    return 64;
  }
  const long steps = argc == 3 ? std::strtol(argv[2], nullptr, 10) : 200;
  const absl::Status status = steps < 1 ? absl::InvalidArgumentError("STEPS must be positive")
                                        : vitscale::golden::Dump(argv[1], steps);
  if (!status.ok()) std::fprintf(stderr, "golden_curve_dump: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
