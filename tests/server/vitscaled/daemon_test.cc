#include "server/vitscaled/daemon.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "nlohmann/json.hpp"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

class DaemonTest : public testing::Test {
 protected:
  ServerFlags Flags(const std::string& name) {
    ServerFlags flags;
    flags.state_dir = directory_.path() + "/" + name;
    flags.socket = directory_.path() + "/" + name + ".sock";
    flags.listen = {"127.0.0.1", 0};
    flags.metrics = {"127.0.0.1", 0};
    flags.ready_file = directory_.path() + "/" + name + ".json";
    return flags;
  }
  bool Exists(const std::string& path) { return PosixFileSystem().Exists(path).value_or(false); }
  TemporaryDirectory directory_;
};

TEST_F(DaemonTest, TellsItsAddressesWhenItServesAndTakesThemBackWhenItStops) {
  const ServerFlags flags = Flags("one");
  VITSCALE_ASSERT_OK_AND_ASSIGN(auto daemon, Daemon::Start(flags));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::string text,
                                PosixFileSystem().ReadFile(flags.ready_file, 4096));
  const nlohmann::json ready = nlohmann::json::parse(text);
  EXPECT_EQ(ready["listen_address"], daemon->address().ToString());
  EXPECT_EQ(ready["metrics_address"], daemon->metrics_address().ToString());
  EXPECT_TRUE(Exists(flags.socket));
  daemon->Stop(absl::ZeroDuration());
  EXPECT_FALSE(Exists(flags.ready_file));
  EXPECT_FALSE(Exists(flags.socket));
}

TEST_F(DaemonTest, ASecondCoordinatorOnOneStateDirectoryDisturbsNothing) {
  const ServerFlags flags = Flags("one");
  VITSCALE_ASSERT_OK_AND_ASSIGN(auto daemon, Daemon::Start(flags));
  EXPECT_THAT(Daemon::Start(flags),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another coordinator")));
  EXPECT_TRUE(Exists(flags.ready_file));
  EXPECT_TRUE(Exists(flags.socket));
}

TEST_F(DaemonTest, ATakenPortIsNamedAndNothingIsLeftBehind) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(auto daemon, Daemon::Start(Flags("one")));
  ServerFlags second = Flags("two");
  second.listen = daemon->address();
  EXPECT_THAT(Daemon::Start(second),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(daemon->address().ToString())));
  EXPECT_FALSE(Exists(second.socket));
  EXPECT_FALSE(Exists(second.ready_file));
  ServerFlags third = Flags("three");
  third.metrics = daemon->metrics_address();
  EXPECT_THAT(Daemon::Start(third), StatusIs(absl::StatusCode::kAlreadyExists,
                                             HasSubstr(daemon->metrics_address().ToString())));
}

}  // namespace
}  // namespace vitscale
