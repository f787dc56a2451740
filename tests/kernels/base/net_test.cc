#include "kernels/base/net.h"

#include <sys/stat.h>

#include <thread>

#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);  // never reached when all is well
constexpr absl::Duration kShort = absl::Milliseconds(20);

TEST(ParseHostPortTest, TakesNamesAndBothKindsOfAddress) {
  EXPECT_EQ(ParseHostPort("localhost:80")->host, "localhost");
  EXPECT_EQ(ParseHostPort("[::1]:7480")->host, "::1");
  EXPECT_EQ(ParseHostPort("[::1]:7480")->ToString(), "[::1]:7480");
  EXPECT_EQ(ParseHostPort("10.0.0.1:0")->port, 0);
}

TEST(ParseHostPortTest, NamesWhatIsWrong) {
  for (const char* text : {"host", "host:", ":80", "host:65536", "host:-1", "host:8o", "::1:80",
                           "host: 80", "host:99999999999"}) {
    EXPECT_THAT(ParseHostPort(text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  }
}

TEST(IsLoopbackTest, KnowsLoopbackAndNothingElse) {
  for (const char* host : {"127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"}) {
    EXPECT_TRUE(IsLoopback(host)) << host;
  }
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "127.evil.example", "example.com", ""}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
}

TEST(ParseAddressTest, TellsUnixFromTcp) {
  EXPECT_EQ(ParseAddress("unix:/run/x.sock")->unix_path, "/run/x.sock");
  EXPECT_EQ(ParseAddress("unix:///run/x.sock")->ToString(), "unix:/run/x.sock");
  EXPECT_EQ(ParseAddress("host:1")->tcp.port, 1);
  EXPECT_FALSE(ParseAddress("unix:relative").ok());
}

TEST(NetTest, BytesGoBothWaysOverTcp) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(UniqueFd listener, ListenTcp({"127.0.0.1", 0}));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const int port, LocalPort(listener.get()));
  EXPECT_GT(port, 0);
  const std::string big(1 << 20, 'x');  // more than the socket buffers hold
  std::thread peer([&] {
    auto fd = Accept(listener.get(), kLong);
    ASSERT_THAT(fd, IsOk());
    std::string got(big.size(), '\0');
    EXPECT_THAT(ReadAll(fd->get(), absl::MakeSpan(got), kLong), IsOk());
    EXPECT_THAT(WriteAll(fd->get(), got, kLong), IsOk());
  });
  VITSCALE_ASSERT_OK_AND_ASSIGN(UniqueFd fd, ConnectTcp({"127.0.0.1", port}, kLong));
  EXPECT_THAT(WriteAll(fd.get(), big, kLong), IsOk());
  std::string back(big.size(), '\0');
  EXPECT_THAT(ReadAll(fd.get(), absl::MakeSpan(back), kLong), IsOk());
  EXPECT_EQ(back, big);
  peer.join();
}

TEST(NetTest, AClosedPeerAndASilentPeerAreToldApart) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(UniqueFd listener, ListenTcp({"127.0.0.1", 0}));
  const int port = *LocalPort(listener.get());
  VITSCALE_ASSERT_OK_AND_ASSIGN(UniqueFd fd, ConnectTcp({"127.0.0.1", port}, kLong));
  VITSCALE_ASSERT_OK_AND_ASSIGN(UniqueFd peer, Accept(listener.get(), kLong));
  char byte;
  EXPECT_THAT(ReadAll(fd.get(), absl::MakeSpan(&byte, 1), kShort),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  peer.reset();
  EXPECT_THAT(ReadAll(fd.get(), absl::MakeSpan(&byte, 1), kLong),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("closed")));
}

TEST(NetTest, APortInUseAndARefusedOneAreNamed) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(UniqueFd listener, ListenTcp({"127.0.0.1", 0}));
  const HostPort address{"127.0.0.1", *LocalPort(listener.get())};
  EXPECT_THAT(ListenTcp(address),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(address.ToString())));
  listener.reset();
  EXPECT_THAT(ConnectTcp(address, kLong),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(address.ToString())));
}

TEST(NetTest, UnixSocketsArePrivateFromTheStart) {
  TemporaryDirectory directory;
  const std::string path = directory.path() + "/s.sock";
  EXPECT_THAT(ConnectUnix(path, kLong), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(path)));
  VITSCALE_ASSERT_OK_AND_ASSIGN(UniqueFd listener, ListenUnix(path));
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_THAT(Connect({path, {}}, kLong), IsOk());
  EXPECT_THAT(Accept(listener.get(), kLong), IsOk());
  EXPECT_THAT(Accept(listener.get(), kShort), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(ListenUnix(std::string(200, 'x')), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(UniqueFdTest, MovesOwnership) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(UniqueFd a, ListenTcp({"127.0.0.1", 0}));
  const int fd = a.get();
  UniqueFd b = std::move(a);
  EXPECT_FALSE(a.valid());
  EXPECT_EQ(b.get(), fd);
  EXPECT_EQ(b.release(), fd);
  b.reset(fd);
  b = UniqueFd();
  EXPECT_FALSE(LocalPort(fd).ok());  // closed
}

}  // namespace
}  // namespace vitscale
