// A real Prometheus scrapes a real run, and every query of every panel of the dashboard returns
// data.

#include <signal.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/e2e/cluster.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

namespace fs = std::filesystem;

const std::string kTools = absl::StrCat(VITSCALE_SOURCE_DIR, "/build/tools/prometheus/usr/bin");

std::string Curl(const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {"/usr/bin/curl", "-sS", "--noproxy", "*", "--max-time", "10"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return RunCommand(all, {}, absl::Seconds(15)).out;
}

struct PanelQuery {
  std::string panel;
  std::string expression;
};

std::vector<PanelQuery> DashboardQueries() {
  std::vector<PanelQuery> queries;
  for (const auto& file :
       fs::directory_iterator(absl::StrCat(VITSCALE_SOURCE_DIR, "/deploy/grafana/dashboards"))) {
    std::ifstream in(file.path());
    const nlohmann::json dashboard = nlohmann::json::parse(in);
    for (const auto& panel : dashboard["panels"]) {
      if (!panel.contains("targets")) continue;
      for (const auto& target : panel["targets"]) {
        queries.push_back({panel["title"],
                           absl::StrReplaceAll(
                               target["expr"].get<std::string>(),
                               {{"$__rate_interval", "10s"}, {"$run", ".*"}, {"$worker", ".*"}})});
      }
    }
  }
  return queries;
}

class PrometheusTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kTools + "/prometheus"))
      GTEST_SKIP() << "no Prometheus in " << kTools << " (tests/fetch_prometheus.sh)";
    absl::StatusOr<std::unique_ptr<Cluster>> cluster = Cluster::Start();
    ASSERT_THAT(cluster, IsOk());
    cluster_ = std::move(*cluster);
  }
  void TearDown() override {
    if (prometheus_ > 0) {
      kill(prometheus_, SIGKILL);
      (void)WaitForExit(prometheus_, absl::Seconds(10));
    }
  }

  void StartPrometheus() {
    const std::string config = cluster_->folder() + "/prometheus.yml";
    std::ofstream(config)
        << "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: vitscale\n"
        << "  http_sd_configs: [{url: 'http://" << cluster_->metrics_address()
        << "/sd/workers', refresh_interval: 1s}]\n";
    ASSERT_EQ(RunCommand({kTools + "/promtool", "check", "config", config}, {}, absl::Seconds(20))
                  .exit_code,
              0);
    absl::StatusOr<pid_t> pid = StartProgram(
        {kTools + "/prometheus", "--config.file=" + config, "--web.listen-address=127.0.0.1:0",
         "--storage.tsdb.path=" + cluster_->folder() + "/tsdb"},
        {}, cluster_->folder() + "/prometheus.log");
    ASSERT_THAT(pid, IsOk());
    prometheus_ = *pid;
    const absl::Time end = absl::Now() + absl::Seconds(30);
    while (address_.empty() && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(100));
      address_ = ListenAddress();
    }
    ASSERT_FALSE(address_.empty()) << "Prometheus did not say where it listens";
  }
  // Prometheus chooses its port; its log does not say which, the kernel does.
  std::string ListenAddress() const {
    const CommandResult result = RunCommand(
        {"/bin/sh", "-c",
         absl::StrCat("for f in /proc/", prometheus_,
                      "/fd/*; do readlink $f; done; echo; cat /proc/", prometheus_, "/net/tcp")},
        {}, absl::Seconds(5));
    std::smatch row;
    std::istringstream lines(result.out);
    for (std::string line; std::getline(lines, line);) {
      static const std::regex kListen(R"( *\d+: 0100007F:([0-9A-F]{4}) 00000000:0000 0A .*)");
      if (!std::regex_match(line, row, kListen)) continue;
      std::istringstream words(line);
      std::string word, inode;
      for (int i = 0; i < 10 && words >> word; ++i) inode = word;
      if (result.out.find("socket:[" + inode + "]") != std::string::npos) {
        return absl::StrCat("127.0.0.1:", std::stoi(row[1], nullptr, 16));
      }
    }
    return "";
  }
  size_t ResultCount(const std::string& expression) {
    const nlohmann::json answer =
        nlohmann::json::parse(Curl({"-G", "http://" + address_ + "/api/v1/query",
                                    "--data-urlencode", "query=" + expression}),
                              nullptr, false);
    if (!answer.is_object() || answer.value("status", "") != "success") return 0;
    return answer["data"]["result"].size();
  }

  std::unique_ptr<Cluster> cluster_;
  pid_t prometheus_ = 0;
  std::string address_;
};

TEST_F(PrometheusTest, EveryPanelOfTheDashboardHasDataDuringARun) {
  StartPrometheus();
  absl::StatusOr<std::string> job = cluster_->Submit(TinyJob(100000, 200), {"--set", "evals.0.every=100 steps"});
  ASSERT_THAT(job, IsOk());
  ASSERT_THAT(cluster_->WaitForStep(*job, 500, absl::Seconds(90)), IsOk());
  absl::SleepFor(absl::Seconds(5));  // a few scrapes
  const std::vector<PanelQuery> queries = DashboardQueries();
  EXPECT_GE(queries.size(), 12u);
  for (const PanelQuery& query : queries) {
    size_t found = 0;
    for (int tries = 0; tries < 20 && found == 0; ++tries) {
      found = ResultCount(query.expression);
      if (found == 0) absl::SleepFor(absl::Seconds(1));
    }
    EXPECT_GT(found, 0u) << "panel \"" << query.panel << "\": " << query.expression;
  }
}

TEST_F(PrometheusTest, MetricNamesPassPromtool) {
  absl::StatusOr<std::string> job = cluster_->Submit(TinyJob(100000));
  ASSERT_THAT(job, IsOk());
  ASSERT_THAT(cluster_->WaitForStep(*job, 5, absl::Seconds(60)), IsOk());
  nlohmann::json targets;
  for (int tries = 0; tries < 100 && targets.size() < 3; ++tries) {
    targets = nlohmann::json::parse(Curl({"http://" + cluster_->metrics_address() + "/sd/workers"}),
                                    nullptr, false);
    absl::SleepFor(absl::Milliseconds(100));
  }
  ASSERT_TRUE(targets.is_array());
  size_t checked = 0;
  for (const auto& group : targets) {
    for (const auto& target : group["targets"]) {
      const std::string text = Curl({"http://" + target.get<std::string>() + "/metrics"});
      const CommandResult result =
          RunCommand({kTools + "/promtool", "check", "metrics"}, {}, absl::Seconds(20), text);
      EXPECT_EQ(result.exit_code, 0) << target << ": " << result.out << result.err;
      EXPECT_EQ(result.out + result.err, "") << target;
      ++checked;
    }
  }
  EXPECT_EQ(checked, 3u) << "the coordinator and two workers";
}

}  // namespace
}  // namespace vitscale
