#include "kernels/base/files.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "kernels/base/path.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class FilesTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const { return JoinPath(directory_.path(), name); }
  void Write(const std::string& name, const std::string& bytes) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(auto file, fs_.CreateExclusive(Path(name)));
    EXPECT_THAT(file->Append(bytes), IsOk());
    EXPECT_THAT(file->Sync(), IsOk());
    EXPECT_THAT(file->Close(), IsOk());
  }

  TemporaryDirectory directory_;
  FileSystem& fs_ = PosixFileSystem();
};

TEST_F(FilesTest, WhatIsWrittenIsRead) {
  Write("a", "hello");
  EXPECT_EQ(*fs_.ReadFile(Path("a"), 100), "hello");
  VITSCALE_ASSERT_OK_AND_ASSIGN(auto file, fs_.Open(Path("a")));
  EXPECT_EQ(file->size(), 5);
  char two[2];
  EXPECT_THAT(file->ReadAt(3, absl::MakeSpan(two)), IsOk());
  EXPECT_EQ(std::string(two, 2), "lo");
  EXPECT_THAT(file->ReadAt(4, absl::MakeSpan(two)),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("short read")));
}

TEST_F(FilesTest, CreateExclusiveRefusesWhatIsThere) {
  Write("a", "x");
  EXPECT_THAT(fs_.CreateExclusive(Path("a")),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(Path("a"))));
  std::filesystem::create_symlink("nowhere", Path("dangling"));
  EXPECT_THAT(fs_.CreateExclusive(Path("dangling")), StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(FilesTest, ReadFileKeepsToItsLimit) {
  Write("a", "123456");
  EXPECT_THAT(fs_.ReadFile(Path("a"), 6), IsOk());
  EXPECT_THAT(fs_.ReadFile(Path("a"), 5), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(fs_.ReadFile("/proc/self/status", 100000), IsOk());  // its size reads as 0
}

TEST_F(FilesTest, MissingAndWrongKindsAreTold) {
  EXPECT_THAT(fs_.ReadFile(Path("none"), 10), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(fs_.Open(directory_.path()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a regular file")));
  EXPECT_THAT(fs_.List(Path("none")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(*fs_.Exists(Path("none")));
  EXPECT_TRUE(*fs_.Exists(directory_.path()));
}

TEST_F(FilesTest, AFifoIsRefusedAtOnceWhereARegularFileIsWanted) {
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  const auto refused =
      StatusIs(absl::StatusCode::kFailedPrecondition,
               AllOf(HasSubstr(Path("fifo")), HasSubstr("is a FIFO, not a regular file")));
  EXPECT_THAT(fs_.ReadFile(Path("fifo"), 10), refused);
  EXPECT_THAT(fs_.Open(Path("fifo")), refused);
  EXPECT_THAT(fs_.ReadFile(directory_.path(), 10),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is a directory")));
  EXPECT_THAT(fs_.ReadFile("/dev/zero", 10),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is a device")));
}

TEST_F(FilesTest, ListIsSortedAndStatTellsKinds) {
  Write("b", "12");
  EXPECT_THAT(fs_.MakeDirectory(Path("a")), IsOk());
  EXPECT_THAT(*fs_.List(directory_.path()), ElementsAre("a", "b"));
  EXPECT_TRUE(fs_.Stat(Path("a"))->is_directory);
  EXPECT_TRUE(fs_.Stat(Path("b"))->is_regular);
  EXPECT_EQ(fs_.Stat(Path("b"))->bytes, 2);
}

// By the real file system, and by List and Stat as other file systems do it.
TEST_F(FilesTest, ListEntriesTellsKindsWithoutFollowingSymlinks) {
  Write("b", "");
  ASSERT_THAT(fs_.MakeDirectory(Path("a")), IsOk());
  std::filesystem::create_symlink("a", Path("c"));
  std::filesystem::create_symlink("gone", Path("d"));
  for (const auto& entries :
       {*fs_.ListEntries(directory_.path()), *fs_.FileSystem::ListEntries(directory_.path())}) {
    std::string kinds;
    for (const DirectoryEntry& e : entries) {
      kinds += e.name + (e.is_directory ? "/ " : e.is_regular ? " " : e.is_symlink ? "@ " : "? ");
    }
    EXPECT_EQ(kinds, "a/ b c@ d@ ");
  }
  EXPECT_THAT(fs_.ListEntries(Path("nowhere")), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(FilesTest, MakeDirectoryMustBeNewMakeDirectoriesNeedNot) {
  EXPECT_THAT(fs_.MakeDirectories(Path("x/y/z")), IsOk());
  EXPECT_THAT(fs_.MakeDirectories(Path("x/y/z")), IsOk());
  EXPECT_THAT(fs_.MakeDirectory(Path("x")), StatusIs(absl::StatusCode::kAlreadyExists));
  Write("file", "");
  EXPECT_FALSE(fs_.MakeDirectories(Path("file/below")).ok());
}

TEST_F(FilesTest, WriteFileAtomicallyReplacesAndLeavesNoTemporary) {
  EXPECT_THAT(WriteFileAtomically(fs_, Path("m"), "one"), IsOk());
  Write("m.tmp", "left behind by a crash");
  EXPECT_THAT(WriteFileAtomically(fs_, Path("m"), "two"), IsOk());
  EXPECT_EQ(*fs_.ReadFile(Path("m"), 10), "two");
  EXPECT_THAT(*fs_.List(directory_.path()), ElementsAre("m"));
}

TEST_F(FilesTest, RemoveTreeTakesEverythingButWhatSymlinksPointTo) {
  EXPECT_THAT(fs_.MakeDirectories(Path("tree/a/b")), IsOk());
  Write("tree/a/b/file", "x");
  Write("outside", "stays");
  std::filesystem::create_symlink(Path("outside"), Path("tree/link"));
  std::filesystem::create_directory_symlink(directory_.path(), Path("tree/up"));
  std::filesystem::create_symlink("nowhere", Path("tree/dangling"));
  EXPECT_THAT(RemoveTree(fs_, Path("tree")), IsOk());
  EXPECT_THAT(*fs_.List(directory_.path()), ElementsAre("outside"));
  EXPECT_THAT(RemoveTree(fs_, Path("tree")), IsOk());  // missing is fine
}

TEST_F(FilesTest, RemoveTreeBeyondItsLimitRemovesNothing) {
  EXPECT_THAT(fs_.MakeDirectory(Path("tree")), IsOk());
  for (const char* name : {"tree/1", "tree/2", "tree/3"}) Write(name, "");
  EXPECT_THAT(RemoveTree(fs_, Path("tree"), 3), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(*fs_.List(Path("tree")), ElementsAre("1", "2", "3"));
  EXPECT_THAT(RemoveTree(fs_, Path("tree"), 4), IsOk());
}

TEST_F(FilesTest, AFullDiskIsResourceExhausted) {
  const auto info = fs_.Stat("/dev/full");
  if (!info.ok()) GTEST_SKIP() << "no /dev/full here";
  std::ofstream full("/dev/full");
  full << "x" << std::flush;
  EXPECT_FALSE(full.good());
}

}  // namespace
}  // namespace vitscale
