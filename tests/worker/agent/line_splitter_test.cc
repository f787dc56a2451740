#include "worker/agent/line_splitter.h"

#include <random>

#include "gmock/gmock.h"
#include "google/protobuf/stubs/logging.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(LineSplitterTest, GivesWholeLinesWithoutTheirEnds) {
  LineSplitter lines;
  EXPECT_THAT(lines.Add("one\ntw"), ElementsAre("one"));
  EXPECT_THAT(lines.Add("o\r\n\nthree"), ElementsAre("two", ""));
  EXPECT_THAT(lines.Flush(), ElementsAre("three"));
  EXPECT_THAT(lines.Flush(), IsEmpty());
}

TEST(LineSplitterTest, CutsALineThatIsTooLongBetweenCharacters) {
  LineSplitter lines;
  std::string text;
  while (text.size() < 3 * kLineBytesMax) text += "é";  // two bytes each
  text.insert(0, "x");
  std::string joined;
  for (const std::string& line : lines.Add(text)) {
    EXPECT_LE(line.size(), kLineBytesMax);
    EXPECT_EQ(line.find('?'), std::string::npos);
    joined += line;
  }
  for (const std::string& line : lines.Flush()) joined += line;
  EXPECT_EQ(joined, text);
}

TEST(RepairTextTest, KeepsTextAndReplacesWhatIsNone) {
  EXPECT_EQ(RepairText("tab\t größe 学 🙂"), "tab\t größe 学 🙂");
  EXPECT_EQ(RepairText("\x1b[31mred\x07"), "?[31mred?");
  EXPECT_EQ(RepairText("\xff\xfe"), "??");
  EXPECT_EQ(RepairText("\xc0\xaf"), "??") << "overlong";
  EXPECT_EQ(RepairText("\xed\xa0\x80"), "???") << "surrogate";
  EXPECT_EQ(RepairText("\xf4\x90\x80\x80"), "????") << "beyond the last code point";
  EXPECT_EQ(RepairText("cut \xe5\xad"), "cut ??");
}

TEST(RepairTextTest, WhateverATrainerPrintsCanBeSent) {
  google::protobuf::LogSilencer silence;
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(random() % 12, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    v1::LogLine sent, received;
    sent.set_text(RepairText(bytes));
    ASSERT_TRUE(received.ParseFromString(sent.SerializeAsString()));
  }
}

}  // namespace
}  // namespace vitscale::agent
