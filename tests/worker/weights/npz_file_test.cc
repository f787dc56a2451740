// Zips of every kind. What numpy itself writes is read in tests/golden/weights_golden_test.cc.

#include "worker/weights/npz_file.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/base/philox.h"
#include "tests/status_matchers.h"
#include "tests/worker/weights/weights_test_util.h"
#include "worker/weights/npy_header.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Npy(const Shape& shape, const std::vector<float>& values) {
  return absl::StrCat(MakeNpyHeader(shape),
                      absl::string_view(reinterpret_cast<const char*>(values.data()),
                                        values.size() * sizeof(float)));
}

class NpzFileTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<WeightFile>> Open(absl::string_view bytes) {
    return OpenWeightFile(PosixFileSystem(), files_.Write("a.npz", bytes));
  }
  static absl::StatusOr<std::vector<float>> ReadOne(WeightFile& file, size_t index) {
    std::vector<bool> wanted(file.tensors().size());
    wanted[index] = true;
    std::vector<float> values;
    const absl::Status status = file.Read(
        wanted, [&](size_t, absl::Span<const float> v) { values.assign(v.begin(), v.end()); },
        nullptr);
    if (!status.ok()) return status;
    return values;
  }
  WeightsTest files_;
};

TEST_F(NpzFileTest, ReadsStoredAndDeflatedEntriesInAnyOrder) {
  for (const ZipMethod method : {ZipMethod::kStored, ZipMethod::kDeflated}) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(
        const auto file,
        Open(MakeZip({{"b/c.npy", Npy({2, 1}, {1, 2})}, {"a.npy", Npy({}, {3})}}, method)));
    ASSERT_EQ(file->tensors().size(), 2u);
    EXPECT_EQ(file->tensors()[0].name, "b/c");
    EXPECT_EQ(file->tensors()[0].shape, (Shape{2, 1}));
    EXPECT_THAT(ReadOne(*file, 0), IsOkAndHolds(ElementsAre(1, 2)));
    EXPECT_THAT(ReadOne(*file, 1), IsOkAndHolds(ElementsAre(3)));
  }
}

TEST_F(NpzFileTest, WidensBfloat16) {
  const std::string npy = MakeNpy("{'descr': '|V2', 'fortran_order': False, 'shape': (2,), }",
                                  std::string("\x80\x3f\x00\xc0", 4));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto file, Open(MakeZip({{"a.npy", npy}})));
  EXPECT_EQ(file->tensors()[0].dtype, DType::kBf16);
  EXPECT_THAT(ReadOne(*file, 0), IsOkAndHolds(ElementsAre(1.0f, -2.0f)));
}

TEST_F(NpzFileTest, AnEntryThatCannotBeReadIsNoFaultUntilItIsWanted) {
  const std::string object =
      MakeNpy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", "\x80\x04pickle");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto file,
                                Open(MakeZip({{"state.npy", object}, {"a.npy", Npy({1}, {4})}})));
  EXPECT_THAT(file->tensors()[0].fault, HasSubstr("Python objects"));
  EXPECT_THAT(ReadOne(*file, 1), IsOkAndHolds(ElementsAre(4)));
}

TEST_F(NpzFileTest, NamesTheEntryThatIsBad) {
  const std::string good = Npy({2}, {1, 2});
  EXPECT_THAT(Open(MakeZip({{"a.npy", good}, {"a.npy", good}})),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("'a.npy' is in the zip twice")));
  EXPECT_THAT(Open(MakeZip({{"readme.txt", "hello"}})),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("'readme.txt': is no .npy file")));
  EXPECT_THAT(Open(MakeZip({{"a.npy", "\x93NUM"}})),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("'a.npy': ends within")));
  EXPECT_THAT(Open(MakeZip({{"a.npy", good + "x"}})),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("'a.npy': has 9 bytes of data, its shape wants 8")));
  EXPECT_THAT(Open(MakeZip({{"a.npy", good.substr(0, good.size() - 1)}})),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("has 7 bytes")));
}

TEST_F(NpzFileTest, AChangedByteOfTheDataIsFoundByTheChecksum) {
  std::string zip = MakeZip({{"a.npy", Npy({2}, {1, 2})}});
  const std::string two("\x00\x00\x00\x40", 4);
  zip[zip.find(two)] = 1;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto file, Open(zip));
  EXPECT_THAT(ReadOne(*file, 0), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("a.npy")));
}

// 260 MiB of zeros in a quarter of a megabyte.
TEST_F(NpzFileTest, AZipBombIsRefusedBeforeItIsUnpacked) {
  constexpr int64_t kZeros = int64_t{260} << 20;
  const std::string bomb = MakeZipBomb("a.npy", MakeNpyHeader({kZeros / 4}), kZeros);
  EXPECT_LT(bomb.size(), size_t{1} << 20);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto file, Open(bomb));
  EXPECT_THAT(ReadOne(*file, 0), StatusIs(absl::StatusCode::kResourceExhausted,
                                          HasSubstr(absl::StrCat("claims ", kZeros, " bytes"))));
}

TEST_F(NpzFileTest, EveryTruncationIsAnError) {
  const std::string zip = MakeZip({{"a.npy", Npy({2}, {1, 2})}, {"b.npy", Npy({1}, {3})}});
  for (size_t length = 0; length < zip.size(); length += 3) {
    EXPECT_FALSE(Open(zip.substr(0, length)).ok()) << length;
  }
}

TEST_F(NpzFileTest, SurvivesRandomDamage) {
  const std::string good =
      MakeZip({{"a.npy", Npy({8, 4}, std::vector<float>(32, 0.5f))}, {"b.npy", Npy({1}, {3})}},
              ZipMethod::kDeflated);
  Draws draws(3, DrawPurpose::kTest, 0, 0);
  for (int round = 0; round < 2000; ++round) {
    std::string zip = good;
    for (int n = static_cast<int>(draws.Below(3)); n >= 0; --n) {
      zip[draws.Below(zip.size())] = static_cast<char>(draws.Below(256));
    }
    const auto file = Open(zip);
    if (!file.ok()) continue;
    for (size_t i = 0; i < (*file)->tensors().size(); ++i) {
      if ((*file)->tensors()[i].fault.empty()) (void)ReadOne(**file, i);
    }
  }
}

TEST_F(NpzFileTest, ReadsBackWhatItWrites) {
  {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const auto writer,
                                  NpzWriter::Create(PosixFileSystem(), files_.Path("w.npz")));
    EXPECT_THAT(writer->Add("x/y", {2, 2}, {1, -0.0f, 3, 4}), IsOk());
    EXPECT_THAT(writer->Add("empty", {0}, {}), IsOk());
    EXPECT_THAT(writer->Add("z", {3}, {1}), StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(writer->Finish(), IsOk());
  }
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto file,
                                OpenWeightFile(PosixFileSystem(), files_.Path("w.npz")));
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].name, "x/y");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<float> values, ReadOne(*file, 0));
  EXPECT_TRUE(SameBits(values, {1, -0.0f, 3, 4}));
}

TEST_F(NpzFileTest, AFolderOrNothingIsNamed) {
  EXPECT_THAT(OpenWeightFile(PosixFileSystem(), files_.Path("none.npz")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.npz")));
  EXPECT_THAT(OpenWeightFile(PosixFileSystem(), files_.Path("")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is a folder")));
}

}  // namespace
}  // namespace vitscale
