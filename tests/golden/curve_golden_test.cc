// The first 50 steps of the Fashion-MNIST job against an independent flax and optax run
// (curve_study.py).

#include <cmath>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/golden/curve_run.h"
#include "tests/golden/golden.h"

namespace vitscale::golden {
namespace {

// Sum of |value| of every initial parameter: the golden losses are of these and no others.
double MagnitudeOfParameters(Replica& replica) {
  double sum = 0;
  for (const StateTensor& t : replica.State()) {
    if (!absl::StartsWith(t.name, "params/")) continue;
    std::vector<float> values(t.view.elements());
    const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(values.data()), t.view.bytes());
    EXPECT_TRUE(replica.ReadState(t, 0, bytes).ok()) << t.name;
    for (const float value : values) sum += std::abs(value);
  }
  return sum;
}

// f32, so both sides round differently: 1e-4 is what 50 steps make of it (curve_study.md has the
// growth of the difference beside that of flax runs whose initial weights differ by an ulp).
TEST(CurveGoldenTest, FiftyStepsHaveTheLossesOfAnIndependentFlaxRun) {
  auto run = CurveRun::Open();
  if (absl::IsNotFound(run.status())) GTEST_SKIP() << run.status();
  ASSERT_TRUE(run.ok()) << run.status();
  const GoldenFile file("curve");
  const double magnitude = file.Scalar("parameter_magnitude");
  ASSERT_NEAR(MagnitudeOfParameters((*run)->replica()), magnitude, 1e-9 * magnitude)
      << "initial values or seed have changed: run curve_study.py again";
  const std::vector<double> want = file.Values("flax_losses");
  ErrorTable table;
  for (int k = 0; k < 50; ++k) {
    const auto step = (*run)->Step();
    ASSERT_TRUE(step.ok()) << step.status();
    table.Expect("curve, loss of steps 1-50", std::abs(step->loss / want[k] - 1), 1e-4, "relative",
                 absl::StrCat("step ", k + 1));
  }
}

}  // namespace
}  // namespace vitscale::golden
