// What the plan says of memory against what a process came to. A program of its own: a peak never
// falls, so every run here is larger than the one before it.

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"
#include "worker/bench/step_bench.h"

namespace vitscale {
namespace {

BenchOptions Small() {
  BenchOptions options;
  options.custom = {8, 192, 6, 3, 768};
  options.image_size = 128;
  options.classes = 100;
  options.batch = 16;
  options.threads = 2;
  options.steps = 1;
  options.ceiling = options.roofline = false;
  return options;
}

// 256 tokens, so that activations are most of it.
TEST(PlannedMemoryTest, IsWithinThreePercentOfTheMeasuredPeakAtEveryLevel) {
  for (const char* precision : {"bf16", "f32"}) {
    for (const char* recompute : {"block", "gelu_layernorm", "none"}) {
      BenchOptions options = Small();
      options.precision = precision;
      options.recompute = recompute;
      if (options.precision == "f32" && options.recompute == "block") continue;  // below the last
      VITSCALE_ASSERT_OK_AND_ASSIGN(const nlohmann::json report, BenchStep(options));
      const double measured = report["peak_rss_bytes"], planned = report["planned_rss_bytes"];
      EXPECT_NEAR(planned / measured, 1, 0.03)
          << precision << " " << recompute << " " << report.dump();
    }
  }
}

}  // namespace
}  // namespace vitscale
