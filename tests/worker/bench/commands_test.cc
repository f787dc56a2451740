#include "worker/bench/commands.h"

#include <sstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace vitscale {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int code = 0;
  std::string out, err;
};
Outcome RunLine(const std::string& line) {
  std::istringstream words("vitscale-bench " + line);
  std::vector<std::string> arguments;
  for (std::string word; words >> word;) arguments.push_back(word);
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  std::ostringstream out, err;
  const int code = RunBench(static_cast<int>(argv.size()), argv.data(), out, err);
  return {code, out.str(), err.str()};
}
nlohmann::json JsonOf(const std::string& line) {
  const Outcome outcome = RunLine(line);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return nlohmann::json::parse(outcome.out, nullptr, /*allow_exceptions=*/false);
}

constexpr char kModel[] =
    "--variant mu/16 --image-size 32 --classes 10 --batch 4 --threads 1 --steps 1 ";

TEST(BenchCommandsTest, StepTakesTheDocumentedFlagsAndGivesTheDocumentedKeys) {
  const auto report = JsonOf(
      "step --variant mu/16 --image-size 32 --batch 4 --precision bf16 --threads 2 "
      "--steps 2 --json");
  for (const char* key : {"images_per_second", "flops_per_second", "ceiling_flops_per_second",
                          "peak_rss_bytes", "step_seconds", "ceiling_share"}) {
    ASSERT_TRUE(report.contains(key)) << key;
    EXPECT_GT(report[key], 0) << key;
  }
  EXPECT_TRUE(report["phases"].is_object());
  EXPECT_EQ(report["batch"], 4);
  EXPECT_EQ(report["precision"], "bf16");
  EXPECT_EQ(report["threads"], 2);
}

TEST(BenchCommandsTest, RooflineOfAStepNamesKindsOfOps) {
  const auto report = JsonOf(std::string("step --json ") + kModel);
  double share = 0;
  bool linear = false;
  for (const auto& row : report["roofline"]) {
    share += row["share"].get<double>();
    linear = linear || row["name"] == "Linear";
    EXPECT_TRUE(row["bound"] == "compute" || row["bound"] == "memory");
  }
  EXPECT_NEAR(share, 1, 1e-9);
  EXPECT_TRUE(linear);
  EXPECT_FALSE(JsonOf(std::string("step --json --no-roofline ") + kModel).contains("roofline"));
}

TEST(BenchCommandsTest, EveryCommandGivesItsRateAsJson) {
  const std::string model = "--variant mu/16 --image-size 32 --classes 10 --steps 1 --json";
  EXPECT_GT(JsonOf("ceiling --threads 1 --json")["ceiling_flops_per_second"], 0);
  EXPECT_GT(JsonOf("op --threads 1 --batch 1 " + model)["peak_rss_bytes"], 0);
  EXPECT_GT(JsonOf("allreduce --ranks 2 " + model)["bytes_per_second"], 0);
  EXPECT_GT(JsonOf("checkpoint " + model)["stall_seconds"], 0);
  EXPECT_GT(JsonOf("data --jpegs 4 --jpeg-width 20 --jpeg-height 20 --image-size 8 --batch 2 "
                   "--batches 1 --threads 1,2 --json")["images_per_second"],
            0);
}

TEST(BenchCommandsTest, WorkersLeaveTheCeilingOutWhereAsked) {
  const std::string line =
      "workers --repetitions 1 --sleep-millis 1 --json --variant mu/16 --image-size "
      "32 --classes 10 --batch 4 --threads 2 --steps 1";
  EXPECT_GT(JsonOf(line)["ceiling_flops_per_second"], 0);
  const auto without = JsonOf(line + " --no-ceiling");
  EXPECT_EQ(without["sides"].size(), 4u);
  EXPECT_FALSE(without.contains("ceiling_flops_per_second"));
  EXPECT_FALSE(without.contains("ceiling_max_flops_per_second"));
}

TEST(BenchCommandsTest, VersionNeedsNoCommand) {
  const Outcome outcome = RunLine("--version");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("vitscale-bench 0."));
}

TEST(BenchCommandsTest, WithoutJsonThereIsATable) {
  const Outcome outcome = RunLine(std::string("step ") + kModel);
  EXPECT_EQ(outcome.code, 0);
  for (const char* text : {"images_per_second", "GFLOP/s", "phases\n", "backward", "roofline"}) {
    EXPECT_THAT(outcome.out, HasSubstr(text));
  }
}

TEST(BenchCommandsTest, HelpShowsHowEachCommandIsCalled) {
  const Outcome outcome = RunLine("--help");
  EXPECT_EQ(outcome.code, 0);
  for (const char* name : {"step", "op", "allreduce", "data", "checkpoint", "ceiling", "probe"}) {
    EXPECT_THAT(outcome.out, HasSubstr(std::string("  vitscale-bench ") + name + " --"));
    const Outcome one = RunLine(std::string(name) + " --help");
    EXPECT_EQ(one.code, 0);
    EXPECT_THAT(one.out, HasSubstr("--json"));
  }
}

TEST(BenchCommandsTest, WrongUseIsExitCodeTwoAndNamesTheFlag) {
  const struct {
    const char *line, *message;
  } cases[] = {{"", "subcommand"},
               {"stepp", "was \"stepp\", wanted step, op, allreduce"},
               {"allreduce --ranks 1 --bytes 8", "--ranks: was \"1\""},
               {"allreduce --bytes 8 --transport tcp", "--transport: was \"tcp\""},
               {"allreduce --bytes 8 --steps x", "--steps: was \"x\""},
               {"data --threads 0", "--threads: was \"0\""},
               {"data --channels 2", "--channels: was \"2\""},
               {"step --variant S/16 --image-size 0", "--image-size: was \"0\""},
               {"step --variant Q/16", "Q/16"},
               {"checkpoint", "no model"}};
  for (const auto& c : cases) {
    const Outcome outcome = RunLine(c.line);
    EXPECT_EQ(outcome.code, 2) << c.line;
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
    EXPECT_EQ(outcome.out, "");
  }
}

}  // namespace
}  // namespace vitscale
