#include "kernels/base/log.h"

#include <thread>
#include <vector>

#include "gmock/gmock.h"

namespace vitscale {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

TEST(FormatLogLineTest, TextHasTimeLevelNamePlaceAndMessage) {
  EXPECT_EQ(FormatLogLine(false, LogLevel::WARNING, "2026-01-02T03:04:05.678Z", "vitscaled",
                          "job.cc", 81, "disk full"),
            "2026-01-02T03:04:05.678Z W vitscaled job.cc:81] disk full");
}

TEST(FormatLogLineTest, JsonEscapesWhatWouldBreakIt) {
  EXPECT_EQ(FormatLogLine(true, LogLevel::ERROR, "t", "n", "f.cc", 1, "a \"b\" \\ \n \x01 ü"),
            R"({"time":"t","level":"error","name":"n","file":"f.cc","line":1,)"
            R"("message":"a \"b\" \\ \n \u0001 ü"})");
}

TEST(FormatLogLineTest, AMessageWithALineBreakStaysOneLine) {
  EXPECT_THAT(FormatLogLine(false, LogLevel::INFO, "t", "n", "f.cc", 1, "a\nb"),
              HasSubstr("a\\nb"));
}

TEST(LogTest, LinesFromManyThreadsComeWhole) {
  std::vector<std::string> lines;
  SetLogSinkForTests([&lines](const std::string& line) { lines.push_back(line); });
  SetLogName("log_test");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 50; ++i) VITSCALE_LOG(INFO) << "thread " << t << " line " << i;
    });
  }
  for (std::thread& thread : threads) thread.join();
  SetLogSinkForTests(nullptr);
  ASSERT_EQ(lines.size(), 200u);
  for (const std::string& line : lines) {
    EXPECT_THAT(line, MatchesRegex("2[-0-9]+T[0-9:.]+Z I log_test log_test.cc:[0-9]+. "
                                   "thread [0-3] line [0-9]+"));
  }
}

TEST(LogTest, WorksAsASingleStatement) {
  SetLogSinkForTests([](const std::string&) {});
  if (LogEnabled(LogLevel::ERROR))
    VITSCALE_LOG(ERROR) << "x";
  else
    ADD_FAILURE() << "errors are always enabled";
  SetLogSinkForTests(nullptr);
}

}  // namespace
}  // namespace vitscale
