// What vitscale-train says where it cannot begin: flags, job files, folders, devices.

#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/worker/trainer/programs_fixture.h"

namespace vitscale {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

TEST_F(ProgramsTest, AFaultIsToldOnce) {
  const std::string root = MakeRoot("root");
  ASSERT_EQ(TrainOne(root, {"--set=schedule.total=15 steps", kShort}), 0)
      << ReadText(root + "/log");
  EXPECT_EQ(TrainOne(root, {"--set=model.custom.width=64", kShort}), 78);
  const std::vector<std::string> parts =
      absl::StrSplit(ReadText(root + "/log"), "it is of another model");
  EXPECT_THAT(parts, SizeIs(2)) << ReadText(root + "/log");
}

TEST_F(ProgramsTest, PathsOutsideTheRootsAreToldByTheirField) {
  const std::string root = MakeRoot("root");
  EXPECT_EQ(TrainOne(root, {"--set=checkpoint.dir=/tmp/elsewhere"}), 84);
  EXPECT_THAT(ReadText(root + "/log"),
              HasSubstr("checkpoint.dir: '/tmp/elsewhere' lies below none of the roots"));
  EXPECT_EQ(
      TrainOne(root, {"--set=data.train={format: idx, images: /dev/null, labels: /dev/null}"}), 80);
  EXPECT_THAT(ReadText(root + "/log"),
              HasSubstr("data.train: images: '/dev/null' lies below none of the roots"));
  EXPECT_EQ(TrainOne(root, {"--set=data.train={format: idx, images: none, labels: none}"}), 80);
  EXPECT_THAT(ReadText(root + "/log"),
              HasSubstr(absl::StrCat("; looked for below --data-root=", root, "\n")));
}

TEST_F(ProgramsTest, AJobForTwoThatOneRankTrainsAloneIsToldInOneLine) {
  const std::string root = MakeRoot("root"), word = "resources.workers is 2, but this rank trains";
  const std::vector<std::string> two = {kShort, "--set=schedule.total=2 steps",
                                        "--set=resources.workers={min: 2, max: 2}"};
  EXPECT_EQ(TrainOne(root, two), 0) << ReadText(root + "/log");
  EXPECT_THAT(ReadText(root + "/log"), Not(HasSubstr(word))) << "--world-size says it";
  std::vector<std::string> arguments = {
      VITSCALE_TRAIN,        Path("job.yaml"), "--checkpoint-root=" + root,
      "--data-root=" + root, "--threads=1",    "--job-id=alone"};
  arguments.insert(arguments.end(), two.begin(), two.end());
  EXPECT_EQ(ChildProcess(arguments, root + "/alone").Wait(), 0) << ReadText(root + "/alone");
  EXPECT_THAT(ReadText(root + "/alone"), HasSubstr(word));
}

// What could not begin has no ranks that sum, and nothing to show.
TEST_F(ProgramsTest, AStartThatFailsEndsWithItsReason) {
  const std::string root = MakeRoot("root");
  ChildProcess one(Arguments(root, 1, 2), root + "/r1.log");
  std::vector<std::string> arguments = Arguments(root, 0, 2);
  arguments.push_back("--rendezvous-timeout=1");
  arguments.push_back("--set=seed=2");  // so the two do not meet
  EXPECT_EQ(ChildProcess(arguments, root + "/r0.log").Wait(), 82);
  EXPECT_THAT(ReadText(root + "/r0.log"), Not(HasSubstr("ranks      ")));
}

TEST_F(ProgramsTest, WrongFlagsAndJobFilesAreExitCode2WithOneSentence) {
  const std::string root = MakeRoot("root");
  const auto fails_with = [&](std::vector<std::string> more, const std::string& text) {
    std::vector<std::string> arguments = Arguments(root, 0, 1);
    arguments.insert(arguments.end(), more.begin(), more.end());
    const std::string log = root + "/log";
    (void)PosixFileSystem().Remove(log);
    EXPECT_EQ(ChildProcess(arguments, log).Wait(), 2) << text;
    EXPECT_THAT(ReadText(log), HasSubstr(text));
  };
  fails_with({"--set=batch.globl=3"}, "globl");
  fails_with({"--set=batch.global=0"}, "batch.global");
  fails_with({"--no-such-flag"}, "no-such-flag");
  fails_with({"--checkpoint-root=/nonexistent"}, "--checkpoint-root: ");
  fails_with({"--data-root=/nonexistent"}, "--data-root: ");
  for (const auto& [flag, text] : std::vector<std::pair<std::string, std::string>>{
           {"--threads=0", "--threads: was \"0\", wanted a whole number from 1 to 1024"},
           {"--threads=-3", "--threads: was \"-3\""},
           {"--world-size=two", "--world-size: was \"two\", wanted a whole number"},
           {"--rendezvous-timeout=-1", "--rendezvous-timeout: was \"-1\", wanted a number above 0"},
           {"--rendezvous=foo",
            "--rendezvous: was \"foo\", wanted host:port, or the path of a file"},
           {"--data-address=203.0.113.9", "--data-address: "},
           {"--instruction-set=avx",
            "--instruction-set: was \"avx\", wanted avx2, avx512 or avx512_bf16"}}) {
    const std::string log = root + "/flags.log";
    (void)PosixFileSystem().Remove(log);
    EXPECT_EQ(ChildProcess({VITSCALE_TRAIN, Path("job.yaml"), flag}, log).Wait(), 2) << flag;
    EXPECT_THAT(ReadText(log), HasSubstr(text));
  }
}

// No machine has a thousand cards, and this one may have no driver, or no plugin at all.
TEST_F(ProgramsTest, ACardThatIsNotThereIsOneLineAndTheExitCodeOfAWrongConfiguration) {
  const std::string root = MakeRoot("root");
  EXPECT_EQ(TrainOne(root, {"--device=cuda:1000"}), 78);
  const std::string log = ReadText(root + "/log");
  EXPECT_THAT(log, StartsWith("vitscale-train: "));
  EXPECT_THAT(log, AnyOf(HasSubstr("cuda:1000: plugin libvitscale_cuda.so: not found"),
                         HasSubstr("no CUDA device: ")));
  EXPECT_EQ(log.find('\n'), log.size() - 1) << log;
}

// A copy of the program elsewhere has no plugin beside it.
TEST_F(ProgramsTest, WithoutAPluginOneLineSaysWhereItWasLookedFor) {
  const std::string root = MakeRoot("root"), program = VITSCALE_TRAIN;
  const std::string bin = program.substr(0, program.rfind('/'));
  ASSERT_EQ(setenv("LD_LIBRARY_PATH", (bin.substr(0, bin.rfind('/')) + "/lib").c_str(), 1), 0);
  ASSERT_THAT(PosixFileSystem().MakeDirectory(root + "/bin"), IsOk());
  std::filesystem::copy_file(program, root + "/bin/vitscale-train");
  std::vector<std::string> arguments = Arguments(root, 0, 1);
  arguments[0] = root + "/bin/vitscale-train";
  arguments.push_back("--device=cuda");
  EXPECT_EQ(ChildProcess(arguments, root + "/log").Wait(), 78);
  unsetenv("LD_LIBRARY_PATH");
  EXPECT_THAT(ReadText(root + "/log"),
              HasSubstr(absl::StrCat("cuda:0: plugin libvitscale_cuda.so: not found; looked for ",
                                     root, "/lib/libvitscale_cuda.so")));
}

}  // namespace
}  // namespace vitscale
