#include "tests/fault/fault_file.h"

#include "gmock/gmock.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

absl::Status Write(FileSystem& fs, const std::string& path, const std::string& bytes, bool sync) {
  auto file = fs.CreateExclusive(path);
  if (!file.ok()) return file.status();
  if (const absl::Status status = (*file)->Append(bytes); !status.ok()) return status;
  return sync ? (*file)->Sync() : absl::OkStatus();
}

TEST(FaultFileSystemTest, OnlySyncedBytesUnderSyncedNamesSurviveAPowerCut) {
  FaultFileSystem fs;
  ASSERT_THAT(Write(fs, "/synced", "abc", true), IsOk());
  ASSERT_THAT(Write(fs, "/unsynced", "abc", false), IsOk());
  ASSERT_THAT(fs.SyncDirectory("/"), IsOk());
  ASSERT_THAT(Write(fs, "/nameless", "abc", true), IsOk());
  fs.Restart(AfterCrash::kLoseUnsynced);
  EXPECT_THAT(*fs.List("/"), ElementsAre("synced", "unsynced"));
  EXPECT_EQ(*fs.ReadFile("/synced", 10), "abc");
  EXPECT_EQ(*fs.ReadFile("/unsynced", 10), "");
}

TEST(FaultFileSystemTest, AKilledProcessLosesNothingThatItWrote) {
  FaultFileSystem fs;
  ASSERT_THAT(Write(fs, "/a", "abc", false), IsOk());
  fs.Restart(AfterCrash::kKeepAll);
  EXPECT_EQ(*fs.ReadFile("/a", 10), "abc");
}

TEST(FaultFileSystemTest, NothingWorksAfterACrashUntilTheRestart) {
  FaultFileSystem fs;
  fs.CrashAt(1);  // create works, append does half
  EXPECT_THAT(Write(fs, "/a", "abcd", true), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(fs.List("/"), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_TRUE(fs.crashed());
  fs.Restart(AfterCrash::kKeepAll);
  EXPECT_EQ(*fs.ReadFile("/a", 10), "ab");
}

TEST(FaultFileSystemTest, FilesOfAnEarlierLifeAreDead) {
  FaultFileSystem fs;
  VITSCALE_ASSERT_OK_AND_ASSIGN(auto file, fs.CreateExclusive("/a"));
  fs.Restart(AfterCrash::kKeepAll);
  EXPECT_THAT(file->Append("x"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST(FaultFileSystemTest, AFullDiskWritesWhatFits) {
  FaultFileSystem fs;
  fs.SetCapacity(3);
  EXPECT_THAT(Write(fs, "/a", "abcd", true), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(*fs.ReadFile("/a", 10), "abc");
  EXPECT_THAT(fs.Remove("/a"), IsOk());
  EXPECT_THAT(Write(fs, "/a", "abc", true), IsOk());
}

TEST(FaultFileSystemTest, TheHookFailsChosenOperations) {
  FaultFileSystem fs;
  fs.SetHook([](const FileOperation& operation) {
    return operation.kind == "sync" ? absl::InternalError("EIO") : absl::OkStatus();
  });
  EXPECT_THAT(Write(fs, "/a", "abcd", true), StatusIs(absl::StatusCode::kInternal, "EIO"));
}

TEST(FaultFileSystemTest, AnUnsyncedRenameLeavesTheOldNameOrTheNewOne) {
  int old_name = 0, new_name = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    FaultFileSystem fs(seed);
    ASSERT_THAT(Write(fs, "/target", "old", true), IsOk());
    ASSERT_THAT(Write(fs, "/new", "new", true), IsOk());
    ASSERT_THAT(fs.SyncDirectory("/"), IsOk());
    ASSERT_THAT(fs.Rename("/new", "/target"), IsOk());
    fs.Restart(AfterCrash::kRandom);
    ++(*fs.ReadFile("/target", 10) == "old" ? old_name : new_name);
  }
  EXPECT_GT(old_name, 0);
  EXPECT_GT(new_name, 0);
}

TEST(FaultFileSystemTest, KeepsTheRulesOfTheRealOne) {
  FaultFileSystem fs;
  EXPECT_THAT(fs.MakeDirectories("/a/b"), IsOk());
  EXPECT_THAT(fs.MakeDirectory("/a"), StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(fs.MakeDirectory("/x/y"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(fs.Remove("/a"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Write(fs, "/a/f", "", false), IsOk());
  EXPECT_THAT(Write(fs, "/a/f", "", false), StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(fs.Open("/a"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(RemoveTree(fs, "/a"), IsOk());
  EXPECT_THAT(*fs.List("/"), IsEmpty());
}

}  // namespace
}  // namespace vitscale
