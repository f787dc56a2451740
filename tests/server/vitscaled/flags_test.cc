#include "server/vitscaled/flags.h"

#include "gmock/gmock.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

absl::StatusOr<ServerFlags> Parse(std::vector<const char*> arguments,
                                  ServerFlagsExit* done = nullptr) {
  arguments.insert(arguments.begin(), "vitscaled");
  ServerFlagsExit unused;
  return ParseServerFlags(static_cast<int>(arguments.size()), arguments.data(),
                          done == nullptr ? unused : *done);
}

TEST(ServerFlagsTest, DefaultsListenOnLoopbackOnly) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ServerFlags flags, Parse({}));
  EXPECT_EQ(flags.listen.ToString(), "127.0.0.1:7480");
  EXPECT_EQ(flags.metrics.ToString(), "127.0.0.1:7481");
  EXPECT_EQ(flags.core.lease, absl::Seconds(15));
}

TEST(ServerFlagsTest, AnAddressThatOthersReachNeedsInsecure) {
  EXPECT_THAT(Parse({"--listen=0.0.0.0:7480"}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--listen")));
  EXPECT_THAT(Parse({"--metrics=0.0.0.0:7481"}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--metrics")));
  EXPECT_THAT(Parse({"--metrics=0.0.0.0:7481", "--insecure"}), IsOk());
}

TEST(ServerFlagsTest, DurationsAreParsedAndCheckedAgainstEachOther) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ServerFlags flags,
                                Parse({"--heartbeat=200ms", "--lease=2s", "--orphan-window=1m"}));
  EXPECT_EQ(flags.core.heartbeat, absl::Milliseconds(200));
  EXPECT_EQ(flags.core.orphan_window, absl::Minutes(1));
  EXPECT_THAT(Parse({"--lease=3s"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lease")));
  EXPECT_THAT(Parse({"--lease=soon"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("soon")));
}

TEST(ServerFlagsTest, LocksLieBesideTheSocket) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ServerFlags flags, Parse({"--socket=/tmp/x/s"}));
  EXPECT_EQ(flags.lock_dir, "/tmp/x/locks");
}

TEST(ServerFlagsTest, UsageErrorsAreTwoAndHelpIsNone) {
  ServerFlagsExit done;
  (void)Parse({"--nonsense"}, &done);
  EXPECT_TRUE(done.exit);
  EXPECT_EQ(done.code, 2);
  EXPECT_THAT(done.text, HasSubstr("--nonsense"));
  done = {};
  (void)Parse({"--help"}, &done);
  EXPECT_TRUE(done.exit);
  EXPECT_EQ(done.code, 0);
  EXPECT_THAT(done.text, HasSubstr("--orphan-window"));
  EXPECT_THAT(done.text, HasSubstr("Examples:\n  vitscaled --local-workers=2"));
  EXPECT_THAT(done.text, HasSubstr("Exit codes: 0"));
}

}  // namespace
}  // namespace vitscale
