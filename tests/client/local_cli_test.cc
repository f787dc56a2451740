// Commands that need no coordinator.

#include <fstream>

#include "absl/strings/str_split.h"
#include "kernels/base/files.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_spec.h"
#include "tests/client/cli_fixture.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(CliTest, PlanNeedsNoCoordinatorAndCountsParametersToTheDigit) {
  coordinator_.down = absl::UnavailableError("gone");
  EXPECT_EQ(Run({"plan", "--variants", "--classes", "29593", "-o", "csv"}), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("g/14,1408,40,6144,16,256,1078144921,"),
                           HasSubstr("G/14,1664,48,8192,16,256,1930404761,")));
  EXPECT_EQ(Run({"plan", "-"}, kJob), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("parameters"),
                           HasSubstr("planned for            a worker on the CPU, whatever its "
                                     "memory")));
  EXPECT_EQ(Run({"plan", "-", "--memory", "16Gi", "--set", "batch.micro="}, kJob), 0) << err();
  EXPECT_THAT(out(), HasSubstr("a worker on the CPU with 16 GiB; resources.device is any: the "
                               "coordinator chooses batch.micro"));
  EXPECT_EQ(Run({"plan", "-", "-o", "json", "--workers", "1,4"}, kJob), 0);
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["workers"].size(), 2u);
  EXPECT_GT(json["parameters"], 0);
  EXPECT_EQ(Run({"plan", "-", "--memory", "1Ki"}, kJob), 1);
  EXPECT_EQ(Run({"plan", "-", "--memory", "0"}, kJob), 2) << "no memory is not any memory";
  EXPECT_THAT(err(), HasSubstr("--memory: was \"0\", wanted more than 0"));
  EXPECT_EQ(Run({"plan"}), 2);
}

TEST_F(CliTest, PlanSaysFirstForWhatKindOfWorkerAndPredictsNoCardFromACpu) {
  const TemporaryDirectory folder;
  std::ofstream(folder.path() + "/rates.txt") << "vitscale-rates 1\ndevice some CPU\nthreads 2\n"
                                                 "ceiling bf16 1e+12\nop bf16 Linear 32 1e+11\n";
  const auto plan = [&](const std::string& device) {
    EXPECT_EQ(Run({"plan", "-", "--rates", folder.path() + "/rates.txt", "--memory", "4.5Gi",
                   "--wire-bytes-per-second", "1.2G", "--set", "resources.device=" + device},
                  kJob),
              0)
        << err();
    return Lines();
  };
  EXPECT_THAT(plan("any")[0], AllOf(HasSubstr("planned for"), HasSubstr("a worker on the CPU with "
                                                                        "4.5 GiB")));
  EXPECT_THAT(out(), AllOf(HasSubstr("s per micro-batch"), HasSubstr("images/s")));
  EXPECT_THAT(plan("cuda")[0], HasSubstr("a card with 4.5 GiB"));
  EXPECT_THAT(out(), AllOf(HasSubstr("not known for a card: the rates are those of a CPU (some "
                                     "CPU)"),
                           testing::Not(HasSubstr("images/s")), testing::Not(HasSubstr("probe"))));
}

TEST_F(CliTest, PlanForACardTellsItsMemoryFromTheHosts) {
  const std::vector<std::string> card = {"plan",  "-",
                                         "--set", "resources.device=cuda",
                                         "--set", "model={variant: G/14, classes: 29593}"};
  const auto plan = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = card;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments, kJob);
  };
  ASSERT_EQ(plan({"--memory", "80Gi", "-o", "json"}), 0) << err();
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["device"], "cuda");
  EXPECT_EQ(json["memory_bytes"], json["card_bytes"]);
  EXPECT_GT(json["host_bytes"], json["checkpoint_bytes"]);
  EXPECT_EQ(json["recompute"], "none");
  EXPECT_EQ(plan({"--memory", "16Gi"}), 1);
  EXPECT_THAT(err(), HasSubstr("smallest change that fits: a smaller model, or a card with"));
}

TEST_F(CliTest, PlanTellsTimesFromTheRatesOfAProbe) {
  const TemporaryDirectory folder;
  const std::string rates = folder.path() + "/rates.txt";
  std::ofstream(rates) << "vitscale-rates 1\ndevice some CPU\nthreads 2\n"
                          "memory_bytes_per_second 1e10\nceiling bf16 1e11\n"
                          "op bf16 Linear 32 1e10\nwire_bytes_per_second 1e9\n";
  ASSERT_EQ(Run({"plan", "-", "--rates", rates.c_str(), "--workers", "1,2"}, kJob), 0) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("some CPU, 2 threads"), HasSubstr("efficiency 100.0 %"),
                           HasSubstr("20 steps in ")));
  ASSERT_EQ(Run({"plan", "-", "-o", "json", "--rates", rates.c_str(), "--workers", "1,2",
                 "--wire-bytes-per-second", "1k"},
                kJob),
            0)
      << err();
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["rates_of"], "some CPU");
  EXPECT_EQ(json["workers"][0]["total_steps"], 20);
  EXPECT_GT(json["workers"][0]["step_seconds"], 0);
  EXPECT_LT(json["workers"][1]["efficiency"], 0.5);  // a thousand bytes a second
  EXPECT_EQ(Run({"plan", "-", "--rates", "/no/such/rates"}, kJob), 2);
  EXPECT_THAT(err(), AllOf(HasSubstr("--rates"), HasSubstr("vitscale-bench probe")));
  std::ofstream(rates) << "nonsense";
  EXPECT_EQ(Run({"plan", "-", "--rates", rates.c_str()}, kJob), 2);
  EXPECT_THAT(err(), HasSubstr("line 1"));
}

// Table 2 of arXiv 2106.04560: parameters in millions, GFLOPs of one image at 224 and 384.
TEST_F(CliTest, PlanVariantsPrintsThePapersTableToTheDigit) {
  constexpr struct {
    const char *name, *millions, *gf_224, *gf_384;
  } kPaper[] = {{"s/28", "5.4", "0.7", "2.0"},      {"s/16", "5.0", "2.2", "7.8"},
                {"S/32", "22", "2.3", "6.9"},       {"Ti/16", "5.5", "2.5", "9.5"},
                {"B/32", "87", "8.7", "26.0"},      {"S/16", "22", "9.2", "31.2"},
                {"B/28", "87", "11.3", "30.5"},     {"B/16", "86", "35.1", "111.3"},
                {"L/16", "303", "122.9", "382.8"},  {"g/14", "1011", "533.1", "1596.4"},
                {"G/14", "1843", "965.3", "2859.9"}};
  for (const char* size : {"224", "256"}) {  // of the job at hand; the paper's columns stay
    ASSERT_EQ(Run({"plan", "--variants", "--image-size", size}), 0) << err();
    const std::vector<std::string> lines = absl::StrSplit(out(), '\n');
    for (const auto& row : kPaper) {
      int seen = 0;
      for (const std::string& line : lines) {
        const std::vector<std::string> cells = absl::StrSplit(line, ' ', absl::SkipEmpty());
        if (cells.size() < 3 || cells[0] != row.name) continue;
        ++seen;
        EXPECT_THAT(std::vector<std::string>(cells.end() - 3, cells.end()),
                    testing::ElementsAre(row.millions, row.gf_224, row.gf_384))
            << line;
      }
      EXPECT_EQ(seen, 1) << row.name;
    }
  }
  ASSERT_EQ(Run({"plan", "--variants", "-o", "json"}), 0);
  const auto json = nlohmann::json::parse(out());
  const auto largest = std::find_if(json.begin(), json.end(),
                                    [](const auto& row) { return row["variant"] == "G/14"; });
  ASSERT_NE(largest, json.end());
  EXPECT_EQ((*largest)["body_parameters"], 1842772352);
}

TEST_F(CliTest, ValidateSaysWhatIsWrongOrPrintsTheCanonicalForm) {
  EXPECT_EQ(Run({"validate", "-", "--print"}, kJob), 0) << err();
  EXPECT_THAT(out(), HasSubstr("pool: map"));
  EXPECT_EQ(Run({"validate", "-", "--set", "model.classes=0"}, kJob), 2);
  EXPECT_THAT(err(), HasSubstr("model.classes (--set): was 0"));
}

TEST_F(CliTest, CompletionKnowsEveryCommand) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    EXPECT_EQ(Run({"completion", shell}), 0);
    for (const char* word : {"submit", "watch", "unpin", "drain", "idempotency-key", "variants"}) {
      EXPECT_THAT(out(), HasSubstr(word)) << shell;
    }
  }
  EXPECT_EQ(Run({"completion", "tcsh"}), 2);
}

TEST_F(CliTest, VersionShowsBothSidesAndWorksWithoutACoordinator) {
  EXPECT_EQ(Run({"version"}), 0);
  EXPECT_THAT(out(),
              AllOf(HasSubstr("client 0.1.0"), HasSubstr("server 9.9.9"), HasSubstr("term 4")));
  coordinator_.down = absl::UnavailableError("gone");
  EXPECT_EQ(Run({"version"}), 0);
  EXPECT_THAT(out(), HasSubstr("client 0.1.0"));
  EXPECT_THAT(err(), HasSubstr("gone"));
}
}  // namespace
}  // namespace vitscale
