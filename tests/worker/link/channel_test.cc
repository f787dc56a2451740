// The framed stream between agent and trainer: whole frames in order, and every kind of garbage
// named.

#include "worker/link/channel.h"

#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/status_matchers.h"

namespace vitscale::link {
namespace {

using testing::HasSubstr;

std::pair<UniqueFd, UniqueFd> Pair() { return *MakeSocketPair(); }

void WriteRaw(int fd, const std::string& bytes) {
  ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
}

TEST(FrameReaderTest, FindsTheSameFramesWhereverTheStreamIsCut) {
  const std::vector<std::string> messages = {"", "a", std::string(127, 'b'), std::string(128, 'c'),
                                             std::string(20000, 'd')};
  std::string stream;
  for (const std::string& message : messages) stream += EncodeFrame(message);
  for (size_t piece : {size_t{1}, size_t{2}, size_t{7}, size_t{1000}, stream.size()}) {
    FrameReader reader;
    std::vector<std::string> found;
    for (size_t at = 0; at < stream.size(); at += piece) {
      reader.Append(absl::string_view(stream).substr(at, piece));
      for (;;) {
        auto next = reader.Next();
        ASSERT_THAT(next, IsOk());
        if (!next->has_value()) break;
        found.push_back(**next);
      }
    }
    EXPECT_EQ(found, messages) << "pieces of " << piece;
    EXPECT_TRUE(reader.AtBoundary());
  }
}

TEST(FrameReaderTest, RefusesALengthOverTheLimitAndStaysBroken) {
  FrameReader reader;
  reader.Append("\xff\xff\xff\xff\x0f");
  EXPECT_THAT(reader.Next(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("at most 16777216")));
  reader.Append(EncodeFrame("fine"));
  EXPECT_THAT(reader.Next(), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(FrameReaderTest, RefusesALengthThatNeverEnds) {
  FrameReader reader;
  reader.Append("\x80\x80\x80\x80\x80");
  EXPECT_THAT(reader.Next(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("five bytes")));
}

TEST(FrameReaderTest, NeverCrashesOrGrowsBeyondItsInputOnRandomBytes) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    FrameReader reader;
    size_t given = 0, taken = 0;
    for (int piece = 0; piece < 5; ++piece) {
      std::string bytes(random() % 64, '\0');
      for (char& byte : bytes) byte = static_cast<char>(random());
      given += bytes.size();
      reader.Append(bytes);
      for (;;) {
        auto next = reader.Next();
        if (!next.ok() || !next->has_value()) break;
        taken += (*next)->size() + 1;
      }
    }
    EXPECT_LE(taken, given);
  }
}

TEST(ChannelTest, CarriesMessagesBothWaysUnchanged) {
  auto [left, right] = Pair();
  Channel a(std::move(left)), b(std::move(right));
  std::string big(3 << 20, '\0');  // more than the socket's buffer
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 31);
  std::thread sender([&] {
    EXPECT_THAT(a.Send("first"), IsOk());
    EXPECT_THAT(a.Send(big), IsOk());
  });
  VITSCALE_ASSERT_OK_AND_ASSIGN(std::string got, b.Receive());
  EXPECT_EQ(got, "first");
  VITSCALE_ASSERT_OK_AND_ASSIGN(got, b.Receive());
  EXPECT_EQ(got, big);
  sender.join();
  EXPECT_THAT(b.Send("back"), IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(got, a.Receive());
  EXPECT_EQ(got, "back");
}

TEST(ChannelTest, ReadsWhatWasSentBeforeAnOrderlyEndAndThenSaysEnd) {
  auto [left, right] = Pair();
  Channel b(std::move(right));
  {
    Channel a(std::move(left));
    ASSERT_THAT(a.Send("last words"), IsOk());
  }
  VITSCALE_ASSERT_OK_AND_ASSIGN(std::string got, b.Receive());
  EXPECT_EQ(got, "last words");
  EXPECT_THAT(b.Receive(), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("end of stream")));
  EXPECT_THAT(b.Send("anyone?"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST(ChannelTest, TellsAStreamThatEndsInsideAFrameFromAnOrderlyEnd) {
  auto [left, right] = Pair();
  Channel b(std::move(right));
  const std::string frame = EncodeFrame("cut here");
  WriteRaw(left.get(), frame.substr(0, 4));
  left = UniqueFd();
  EXPECT_THAT(b.Receive(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("inside a frame")));
}

TEST(ChannelTest, ReportsGarbage) {
  auto [left, right] = Pair();
  Channel b(std::move(right));
  WriteRaw(left.get(), std::string(16, '\xff'));
  EXPECT_THAT(b.Receive(), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(ChannelTest, ReceiveGivesUpAfterItsTimeoutAndCanBeCalledAgain) {
  auto [left, right] = Pair();
  Channel a(std::move(left)), b(std::move(right));
  EXPECT_THAT(b.Receive(absl::Milliseconds(5)), StatusIs(absl::StatusCode::kDeadlineExceeded));
  ASSERT_THAT(a.Send("late"), IsOk());
  EXPECT_THAT(b.Receive(absl::Milliseconds(5)), IsOk());
}

TEST(ChannelTest, SendGivesUpOnAPeerThatReadsNothingAndStaysDead) {
  auto [left, right] = Pair();
  Channel a(std::move(left));
  const std::string big(kFrameBytesMax, 'x');
  EXPECT_THAT(a.Send(big, absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("took nothing")));
  EXPECT_THAT(a.Send("small"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST(ChannelTest, RefusesAMessageOverTheLimitAndStaysUsable) {
  auto [left, right] = Pair();
  Channel a(std::move(left)), b(std::move(right));
  EXPECT_THAT(a.Send(std::string(kFrameBytesMax + 1, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(a.Send("fits"), IsOk());
  EXPECT_THAT(b.Receive(), IsOk());
}

TEST(ChannelTest, ShutdownWakesABlockedReceive) {
  auto [left, right] = Pair();
  Channel a(std::move(left));
  std::thread closer([&] { a.Shutdown(); });
  EXPECT_THAT(a.Receive(), StatusIs(absl::StatusCode::kOutOfRange));
  closer.join();
}

}  // namespace
}  // namespace vitscale::link
