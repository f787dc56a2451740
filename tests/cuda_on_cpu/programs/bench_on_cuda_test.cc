// Sums between cards as vitscale-bench times them: ranks as processes, each with a device of the
// plugin that is made for the host, through the stand-in of NCCL.

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/files.h"
#include "nlohmann/json.hpp"
#include "tests/worker/trainer/child_process.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class BenchOnCudaTest : public ::testing::Test {
 protected:
  // Exit code; what it prints stands in Log().
  int Bench(const std::string& flags) {
    std::vector<std::string> arguments = absl::StrSplit(VITSCALE_BENCH " " + flags, ' ');
    (void)PosixFileSystem().Remove(Path());
    return ChildProcess(arguments, Path()).Wait();
  }
  std::string Path() const { return folder_.path() + "/log"; }
  std::string Log() const { return ReadText(Path()); }

  const TemporaryDirectory folder_;
};

constexpr char kTwoCards[] =
    "allreduce --transport nccl --ranks 2 --bytes 100000 --bucket-bytes 40000 --steps 2";

TEST_F(BenchOnCudaTest, TwoCardsSumWhatLiesInTheirMemoryAndTellTheirBusBandwidth) {
  ASSERT_EQ(Bench(std::string(kTwoCards) + " --json"), 0) << Log();
  const auto report = nlohmann::json::parse(Log(), nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(report.is_object()) << Log();
  EXPECT_THAT(report["algorithm"].get<std::string>(), StartsWith("nccl_2."));
  EXPECT_THAT(report["device"].get<std::string>(), Not(IsEmpty()));
  EXPECT_EQ(report["bytes"], 100'000);
  EXPECT_EQ(report["buckets"], 3);
  const double seconds = report["seconds"];
  EXPECT_GT(seconds, 0);
  EXPECT_NEAR(report["bus_bytes_per_second"].get<double>() * seconds, 2.0 * 1 / 2 * 100'000, 1e-6);
  EXPECT_GT(report["phases"]["record_alone"], 0);
  ASSERT_EQ(Bench(kTwoCards), 0) << Log();
  EXPECT_THAT(Log(), AllOf(HasSubstr("bus_bytes_per_second "), HasSubstr(" GB/s")));
}

TEST_F(BenchOnCudaTest, AModelsGradientsAreAsManyOnCardsAsOnHosts) {
  const auto report_of = [this](const std::string& transport) {
    EXPECT_EQ(Bench("allreduce --variant mu/16 --image-size 32 --classes 10 --bucket-bytes 100000 "
                    "--steps 1 --json --transport " +
                    transport),
              0)
        << Log();
    return nlohmann::json::parse(Log(), nullptr, /*allow_exceptions=*/false);
  };
  const auto cards = report_of("nccl"), hosts = report_of("gloo");
  ASSERT_TRUE(cards.is_object() && hosts.is_object());
  EXPECT_EQ(cards["bytes"], hosts["bytes"]);
  EXPECT_EQ(cards["buckets"], hosts["buckets"]);
  EXPECT_GT(cards["buckets"], 1);
}

// The ranks that have a card would wait for the third until a deadline.
TEST_F(BenchOnCudaTest, FewerCardsThanRanksIsOneLineAtOnce) {
  EXPECT_EQ(Bench("allreduce --transport nccl --ranks 3 --bytes 8"), 1);
  EXPECT_EQ(Log(),
            "vitscale-bench: rank 2: no CUDA device: device is cuda:2, this machine has 2\n");
}

TEST_F(BenchOnCudaTest, ACardWithoutRoomForTheGradientsSaysSo) {
  setenv("VITSCALE_CARD_BYTES", "65536", /*replace=*/1);
  const int code = Bench(kTwoCards);
  unsetenv("VITSCALE_CARD_BYTES");
  EXPECT_EQ(code, 1);
  EXPECT_THAT(Log(), AllOf(StartsWith("vitscale-bench: rank "), HasSubstr("bytes")));
}

TEST_F(BenchOnCudaTest, AnAbortThatHangsEndsTheRankAndTheBenchmark) {
  setenv("VITSCALE_NCCL_HUNG_ABORTS", "1", /*replace=*/1);
  const int code = Bench(kTwoCards);
  unsetenv("VITSCALE_NCCL_HUNG_ABORTS");
  EXPECT_EQ(code, 1);
  EXPECT_THAT(Log(), AllOf(HasSubstr("the abort of a sum between cards hangs"),
                           HasSubstr("ended without an answer")));
}

}  // namespace
}  // namespace vitscale
