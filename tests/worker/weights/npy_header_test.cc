#include "worker/weights/npy_header.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/base/philox.h"
#include "tests/status_matchers.h"
#include "tests/worker/weights/weights_test_util.h"

namespace vitscale {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(NpyHeaderTest, ReadsBackWhatItWrites) {
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{0}, Shape{2, 3}, Shape{1, 2, 3, 4, 5}}) {
    const std::string text = MakeNpyHeader(shape);
    EXPECT_EQ(text.size() % 64, 0u);
    VITSCALE_ASSERT_OK_AND_ASSIGN(const NpyHeader header, ParseNpyHeader(text));
    EXPECT_EQ(header.shape, shape);
    EXPECT_EQ(header.header_bytes, static_cast<int64_t>(text.size()));
    EXPECT_EQ(header.data_bytes, 4 * ElementCount(shape));
    EXPECT_THAT(header.fault, IsEmpty());
  }
}

TEST(NpyHeaderTest, AcceptsEveryOrderOfKeysAndEveryVersion) {
  for (const int version : {1, 2, 3}) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(
        const NpyHeader header,
        ParseNpyHeader(
            MakeNpy("{\"shape\":(3,4),'descr':'|V2' , 'fortran_order':False}", "", version)));
    EXPECT_EQ(header.shape, (Shape{3, 4}));
    EXPECT_EQ(header.dtype, DType::kBf16);
    EXPECT_EQ(header.data_bytes, 24);
  }
}

TEST(NpyHeaderTest, NumbersThatAreNotReadAreNamed) {
  struct Case {
    const char* descr;
    bool fortran;
    const char* fault;
  };
  for (const Case& c :
       {Case{"'>f4'", false, "'>f4' (big-endian)"}, Case{"'|O'", false, "'|O' (Python objects)"},
        Case{"'<f8'", false, "dtype '<f8'"}, Case{"'<f2'", false, "dtype '<f2'"},
        Case{"'|V4'", false, "dtype '|V4'"},
        Case{"[('a', '<f4', (2,)), ('b', '|O')]", false, "is a structure"},
        Case{"'<f4'", true, "is in Fortran order"}}) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(
        const NpyHeader header,
        ParseNpyHeader(MakeNpy(absl::StrCat("{'descr': ", c.descr, ", 'fortran_order': ",
                                            c.fortran ? "True" : "False", ", 'shape': (2, 3), }"),
                               "")));
    EXPECT_THAT(header.fault, HasSubstr(c.fault));
  }
}

// numpy writes vectors as C order, but either order is the same for them.
TEST(NpyHeaderTest, FortranOrderOfOneAxisIsCOrder) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const NpyHeader header,
      ParseNpyHeader(MakeNpy("{'descr': '<f4', 'fortran_order': True, 'shape': (3,), }", "")));
  EXPECT_THAT(header.fault, IsEmpty());
}

TEST(NpyHeaderTest, RefusesWhatIsNoHeader) {
  const char* const kDictionaries[] = {
      "",
      "[]",
      "{'descr': '<f4', 'fortran_order': False}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (3, -4)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (3 4)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}",
      "{'descr': '<f4', 'fortran_order': 1, 'shape': (3,)}",
      "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} x",
      "{'descr': '<f4",
      "{'descr': [[[",
  };
  for (const char* dictionary : kDictionaries) {
    EXPECT_THAT(ParseNpyHeader(MakeNpy(dictionary, "")), StatusIs(absl::StatusCode::kDataLoss))
        << dictionary;
  }
  EXPECT_THAT(ParseNpyHeader("PK"), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(ParseNpyHeader(MakeNpy("{}", "", 9)), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(NpyHeaderTest, EveryTruncationIsAnError) {
  const std::string text = MakeNpyHeader({3, 4});
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_THAT(ParseNpyHeader(text.substr(0, length)), StatusIs(absl::StatusCode::kDataLoss));
  }
}

// Whatever the bytes: an answer, and a shape only where its size can be known.
TEST(NpyHeaderTest, SurvivesRandomDamage) {
  const std::string good =
      MakeNpy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", "");
  Draws draws(7, DrawPurpose::kTest, 0, 0);
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    for (int n = static_cast<int>(draws.Below(4)); n >= 0; --n) {
      text[draws.Below(text.size())] = static_cast<char>(draws.Below(256));
    }
    const auto header = ParseNpyHeader(text);
    if (header.ok()) {
      EXPECT_GE(header->data_bytes, 0);
    }
  }
}

}  // namespace
}  // namespace vitscale
