// Bad input never hurts: one clear line that names the thing, the right exit code, nothing
// half-done left behind.

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>

#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "tests/e2e/cluster_test.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr absl::Duration kDeadline = absl::Seconds(60);

std::string With(const std::string& from, const std::string& to) {
  return absl::StrReplaceAll(TinyJob(10), {{from, to}});
}

class BadInputTest : public ClusterTest {
 protected:
  static void SetUpTestSuite() {
    ClusterOptions options;
    char folder[] = "/tmp/vitscale-bad-XXXXXX";
    data_root_ = mkdtemp(folder);
    options.data_root = data_root_;
    StartCluster(std::move(options));
  }
  static void TearDownTestSuite() {
    ClusterTest::TearDownTestSuite();
    std::filesystem::remove_all(data_root_);
  }
  // Refused at submit: exit code 2, the words in the message, no job made.
  void ExpectRefused(const std::string& yaml, const std::string& field, const std::string& words) {
    const size_t jobs_before = ListedJobs();
    const CommandResult result = cluster_->Cli({"submit", "-"}, kDeadline, yaml);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr(field), HasSubstr(words)));
    EXPECT_EQ(ListedJobs(), jobs_before);
  }
  // Accepted, then FAILED because of the user's data: no retry.
  void ExpectFails(const std::string& yaml, const std::string& words) {
    absl::StatusOr<std::string> job = cluster_->Submit(yaml);
    ASSERT_THAT(job, IsOk());
    EXPECT_EQ(cluster_->Cli({"wait", *job}, kDeadline).exit_code, 1) << cluster_->CoordinatorLog();
    const nlohmann::json failed = cluster_->GetJob(*job);
    EXPECT_THAT(failed.dump(), HasSubstr(words));
    EXPECT_EQ(JsonInt(failed["attempt"]), 1) << "a user's error is not retried";
  }
  size_t ListedJobs() { return ParseJsonLines(cluster_->Cli({"list", "-o", "json"}).out).size(); }
  std::string IdxJob(const std::string& images, const std::string& labels) {
    return absl::StrReplaceAll(
        TinyJob(10), {{"train: {format: synthetic, synthetic_images: 1024}",
                       "train: {format: idx, images: " + images + ", labels: " + labels + "}"}});
  }
  void WriteIdx(const std::string& name, std::vector<uint32_t> head, size_t payload, char fill) {
    std::ofstream out(data_root_ + "/" + name, std::ios::binary);
    for (uint32_t word : head) {
      const char bytes[] = {static_cast<char>(word >> 24), static_cast<char>(word >> 16),
                            static_cast<char>(word >> 8), static_cast<char>(word)};
      out.write(bytes, 4);
    }
    out << std::string(payload, fill);
  }
  static std::string data_root_;
};
std::string BadInputTest::data_root_;

TEST_F(BadInputTest, AnUnknownKeyIsNamedWithASuggestion) {
  ExpectRefused(With("optimizer:", "optimiser:"), "optimiser", "optimizer");
}
TEST_F(BadInputTest, AWrongTypeIsNamed) {
  ExpectRefused(With("global: 32", "global: many"), "batch.global", "many");
}
TEST_F(BadInputTest, ABatchMustBePositive) {
  ExpectRefused(With("global: 32", "global: -4"), "batch.global", "-4");
}
TEST_F(BadInputTest, AMicroBatchMustDivideTheBatch) {
  ExpectRefused(With("global: 32", "global: 32, micro: 5"), "batch.micro", "32");
}
TEST_F(BadInputTest, APathMayNotClimbOutOfItsRoot) {
  ExpectRefused(IdxJob("../secret", "labels"), "data.train.images", "..");
}
TEST_F(BadInputTest, AllFaultsAreReportedAtOnce) {
  const std::string yaml =
      absl::StrReplaceAll(TinyJob(10), {{"global: 32", "global: 0"}, {"lr: 1e-3", "lr: -1"}});
  const CommandResult result = cluster_->Cli({"submit", "-"}, kDeadline, yaml);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("batch.global"), HasSubstr("optimizer.lr")));
}

TEST_F(BadInputTest, AMissingDataFileFailsTheJobWithItsName) {
  ExpectFails(IdxJob("nowhere-images", "nowhere-labels"), "nowhere-images");
}
TEST_F(BadInputTest, ATruncatedIdxFileFailsTheJobWithItsName) {
  WriteIdx("short-images", {0x803, 64, 16, 16}, 64 * 16 * 16 - 1, 'x');
  WriteIdx("short-labels", {0x801, 64}, 64, 1);
  ExpectFails(IdxJob("short-images", "short-labels"), "short-images");
}
TEST_F(BadInputTest, ALabelOutOfRangeFailsTheJobWithItsPlace) {
  WriteIdx("good-images", {0x803, 64, 16, 16}, 64 * 16 * 16, 'x');
  WriteIdx("bad-labels", {0x801, 64}, 64, 9);  // 4 classes
  ExpectFails(IdxJob("good-images", "bad-labels"), "bad-labels");
}
TEST_F(BadInputTest, ASymlinkOutOfTheRootFailsTheJob) {
  std::filesystem::create_symlink("/etc/passwd", data_root_ + "/link");
  ExpectFails(IdxJob("link", "link"), "link");
}
TEST_F(BadInputTest, ACheckpointFolderThatCannotBeWrittenIsNamed) {
  std::ofstream(cluster_->folder() + "/checkpoints/a-file") << "not a folder";
  absl::StatusOr<std::string> job = cluster_->Submit(With("dir: tiny", "dir: a-file"));
  ASSERT_THAT(job, IsOk());
  EXPECT_EQ(cluster_->Cli({"wait", *job}, kDeadline).exit_code, 1);
  EXPECT_THAT(cluster_->GetJob(*job).dump(), HasSubstr("a-file"));
}

TEST_F(BadInputTest, ASecondCoordinatorOnTheSameStateIsRefused) {
  const CommandResult result =
      RunCommand({Binary("vitscaled"), "--state-dir=" + cluster_->folder() + "/state",
                  "--socket=" + cluster_->folder() + "/other", "--listen=127.0.0.1:0",
                  "--metrics=127.0.0.1:0"},
                 {}, absl::Seconds(20));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_NE(result.exit_code, 124);
  EXPECT_THAT(result.err, HasSubstr(cluster_->folder() + "/state"));
}
TEST_F(BadInputTest, ATakenPortIsNamed) {
  const CommandResult result =
      RunCommand({Binary("vitscaled"), "--state-dir=" + cluster_->folder() + "/state2",
                  "--socket=" + cluster_->folder() + "/other",
                  "--listen=" + cluster_->metrics_address(), "--metrics=127.0.0.1:0"},
                 {}, absl::Seconds(20));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_NE(result.exit_code, 124);
  EXPECT_THAT(result.err, HasSubstr(cluster_->metrics_address()));
}
TEST_F(BadInputTest, ANonLoopbackBindNeedsInsecure) {
  for (const char* flag : {"--listen=0.0.0.0:0", "--metrics=0.0.0.0:0"}) {
    const CommandResult result =
        RunCommand({Binary("vitscaled"), "--state-dir=" + cluster_->folder() + "/state3",
                    "--socket=" + cluster_->folder() + "/other", flag},
                   {}, absl::Seconds(20));
    EXPECT_NE(result.exit_code, 0) << flag;
    EXPECT_NE(result.exit_code, 124) << flag;
    EXPECT_THAT(result.err, HasSubstr("--insecure")) << flag;
  }
}
TEST_F(BadInputTest, AWorkerWithAnotherProtocolVersionIsRefusedForGood) {
  const CommandResult result = RunCommand(
      {Binary("vitscale-worker"), "--coordinator=" + cluster_->address(), "--device=cpu9",
       "--worker-id=stranger", "--state-dir=" + cluster_->folder() + "/stranger",
       "--lock-dir=" + cluster_->folder() + "/locks", "--metrics=127.0.0.1:0",
       "--data-root=" + data_root_, "--checkpoint-root=" + cluster_->folder() + "/checkpoints",
       "--protocol-version=2"},
      {}, absl::Seconds(30));
  EXPECT_EQ(result.exit_code, 78) << result.err;
  EXPECT_THAT(result.err, HasSubstr("protocol version"));
}
TEST_F(BadInputTest, AClientWithoutACoordinatorSaysSo) {
  const CommandResult result = RunCommand(
      {Binary("vitscale"), "--address", "unix:/nonexistent/socket", "list"}, {}, absl::Seconds(30));
  EXPECT_EQ(result.exit_code, 4) << result.err;
  EXPECT_THAT(result.err, HasSubstr("/nonexistent/socket"));
}
TEST_F(BadInputTest, AnUnknownJobIsNotFound) {
  const CommandResult result = cluster_->Cli({"get", "nosuchjob"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("nosuchjob"));
}

}  // namespace
}  // namespace vitscale
