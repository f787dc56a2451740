// A good job file, and the faults of one that is not.

#ifndef TESTS_PROTO_SPEC_JOB_SPEC_CASES_H_
#define TESTS_PROTO_SPEC_JOB_SPEC_CASES_H_

#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "proto/spec/job_spec.h"
#include "tests/status_matchers.h"

namespace vitscale {

inline constexpr char kGood[] = R"(name: fashion-mnist
labels: {team: vision}
resources:
  workers: {min: 2, max: 2}
  device: cpu
model:
  custom: {patch: 4, width: 64, depth: 4, heads: 2, mlp_width: 256}
  image_size: 28
  channels: 1
  classes: 10
  head_bias: -2.2
data:
  train: {format: idx, images: train-images-idx3-ubyte.gz, labels: train-labels-idx1-ubyte.gz}
  preprocess: flip_lr | value_range( -1, 1.0 )
optimizer: {lr: 2e-3}
schedule: {warmup: 200 steps, timescale: 1000 steps, cooldown: 299520 images, total: 10 epochs}
batch: {global: 256}
evals:
  - name: val
    data: {format: idx, images: t10k-images-idx3-ubyte.gz, labels: t10k-labels-idx1-ubyte.gz}
    every: 1 epoch
checkpoint: {dir: runs, every: 500 steps}
seed: 3
)";

// Every fault of a text as "field: text" lines.
inline std::vector<std::string> FaultsOf(absl::string_view text,
                                         const std::vector<std::string>& set = {},
                                         SpecFormat format = SpecFormat::kAuto) {
  std::vector<std::string> lines;
  for (const Fault& fault : StatusToFaults(ParseJobSpec(text, format, set).status())) {
    lines.push_back(FaultText(fault));
  }
  return lines;
}

inline std::string OneFault(absl::string_view text, const std::vector<std::string>& set = {}) {
  const auto faults = FaultsOf(text, set);
  EXPECT_EQ(faults.size(), 1u) << absl::StrJoin(faults, "\n");
  return absl::StrJoin(faults, "\n");
}

inline v1::JobSpec Good() {
  auto spec = ParseJobSpec(kGood);
  EXPECT_THAT(spec, IsOk());
  return *spec;
}

}  // namespace vitscale

#endif  // TESTS_PROTO_SPEC_JOB_SPEC_CASES_H_
