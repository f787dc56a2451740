#include "kernels/base/path.h"

#include <cstdlib>
#include <filesystem>

#include "gmock/gmock.h"
#include "kernels/base/defaults.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

class ResolveBelowTest : public testing::Test {
 protected:
  ResolveBelowTest() {
    std::filesystem::create_directories(root() + "/sub");
    std::filesystem::create_directories(other());
    std::filesystem::create_directories(directory_.path() + "/outside");
    for (const std::string& file :
         {root() + "/sub/file", other() + "/second", directory_.path() + "/outside/secret"}) {
      auto created = fs_.CreateExclusive(file);
      EXPECT_THAT(created, IsOk());
    }
    std::filesystem::create_symlink(directory_.path() + "/outside", root() + "/escape");
    std::filesystem::create_symlink(root() + "/sub", root() + "/inside");
  }
  // Through a real path, so that a TMPDIR with symlinks does no harm.
  std::string root() const {
    return std::filesystem::canonical(directory_.path()).string() + "/root";
  }
  std::string other() const { return directory_.path() + "/other"; }
  absl::StatusOr<std::string> Resolve(const std::string& path, MustExist must = MustExist::kYes) {
    return ResolveBelow(fs_, {root(), other()}, path, must);
  }

  TemporaryDirectory directory_;
  FileSystem& fs_ = PosixFileSystem();
};

TEST_F(ResolveBelowTest, TakesRelativeAndAbsolutePathsBelowARoot) {
  EXPECT_EQ(*Resolve("sub/file"), root() + "/sub/file");
  EXPECT_EQ(*Resolve(root() + "/sub/file"), root() + "/sub/file");
  EXPECT_EQ(*Resolve(root()), root());
  EXPECT_THAT(*Resolve("second"), testing::EndsWith("/other/second"));
}

TEST_F(ResolveBelowTest, FollowsSymlinksThatStayInside) {
  EXPECT_EQ(*Resolve("inside/file"), root() + "/sub/file");
}

TEST_F(ResolveBelowTest, RefusesSymlinksThatLeadOutside) {
  EXPECT_THAT(Resolve("escape/secret"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("escape/secret")));
  EXPECT_THAT(Resolve("escape/new", MustExist::kNo), StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(ResolveBelowTest, RefusesDotDotEmptyNulAndForeignPaths) {
  EXPECT_THAT(Resolve("sub/../sub/file"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("..")));
  EXPECT_THAT(Resolve(""), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Resolve(std::string("a\0b", 3)), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Resolve("/etc/passwd"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(root())));
  EXPECT_THAT(Resolve("/etc/no-such-file"), StatusIs(absl::StatusCode::kPermissionDenied));
  // A sibling whose name starts like the root's is not below it.
  EXPECT_THAT(Resolve(root() + "x/file", MustExist::kNo),
              StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(ResolveBelowTest, MissingIsAnErrorOnlyWhereItMustExist) {
  EXPECT_THAT(Resolve("sub/new"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("sub/new")));
  EXPECT_EQ(*Resolve("sub/new/deeper", MustExist::kNo), root() + "/sub/new/deeper");
  EXPECT_EQ(*Resolve("inside/new", MustExist::kNo), root() + "/sub/new");
}

TEST_F(ResolveBelowTest, AMissingRootOrNoRootIsNamed) {
  EXPECT_THAT(ResolveBelow(fs_, {"/no/such/root"}, "x", MustExist::kYes),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/root")));
  EXPECT_THAT(ResolveBelow(fs_, {}, "x", MustExist::kYes),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       HasSubstr("(none given); they are given with --data-root")));
}

TEST(PathTest, JoinsAndSplits) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "/b"), "a/b");
  EXPECT_EQ(JoinPath("/", "b"), "/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(DirectoryName("/a/b"), "/a");
  EXPECT_EQ(DirectoryName("/a"), "/");
  EXPECT_EQ(DirectoryName("a"), ".");
  EXPECT_EQ(BaseName("/a/b"), "b");
  EXPECT_EQ(BaseName("b"), "b");
}

TEST(DefaultsTest, FollowTheXdgVariables) {
  setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  setenv("XDG_STATE_HOME", "/home/u/state", 1);
  EXPECT_EQ(DefaultSocketPath(), "/run/user/7/vitscale/vitscaled.sock");
  EXPECT_EQ(DefaultLockDirectory(), "/run/user/7/vitscale/locks");
  EXPECT_EQ(DefaultStateDirectory(), "/home/u/state/vitscale");
  setenv("XDG_RUNTIME_DIR", "relative", 1);  // counts as unset
  EXPECT_NE(DefaultSocketPath(), "relative/vitscale/vitscaled.sock");
  unsetenv("XDG_RUNTIME_DIR");
  unsetenv("XDG_STATE_HOME");
}

}  // namespace
}  // namespace vitscale
