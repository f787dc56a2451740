// What was spooled is handed in once it can be, whatever happens to the agent or its disk.

#include "worker/agent/spool.h"

#include <fstream>
#include <set>
#include <string>

#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "tests/status_matchers.h"
#include "worker/link/codec.h"

namespace vitscale::agent {
namespace {

using link::SpooledRecord;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

SpooledRecord Step(int64_t step, int64_t attempt = 1) {
  return {.job_id = "job", .attempt = attempt, .record = link::StepRecord{.step = step}};
}
SpooledRecord Line(const std::string& text) {
  return {.job_id = "job", .attempt = 1, .record = link::LogLine{.text = text}};
}
SpooledRecord Happened(const std::string& kind) {
  return {.job_id = "job", .attempt = 1, .record = link::Event{.kind = kind}};
}

// A disk that refuses to write or create while `full`.
class FullDisk : public FileSystem {
 public:
  bool full = false;

  absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(const std::string& path) override {
    if (full) return Refused();
    VITSCALE_ASSIGN_OR_RETURN(auto file, fs_.CreateExclusive(path));
    return std::make_unique<File>(*this, std::move(file));
  }
  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& p) override {
    return fs_.Open(p);
  }
  absl::StatusOr<std::string> ReadFile(const std::string& p, int64_t n) override {
    return fs_.ReadFile(p, n);
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& p) override {
    return fs_.List(p);
  }
  absl::StatusOr<FileInfo> Stat(const std::string& p) override { return fs_.Stat(p); }
  absl::StatusOr<std::string> RealPath(const std::string& p) override { return fs_.RealPath(p); }
  absl::Status MakeDirectory(const std::string& p) override { return fs_.MakeDirectory(p); }
  absl::Status MakeDirectories(const std::string& p) override { return fs_.MakeDirectories(p); }
  absl::Status Rename(const std::string& a, const std::string& b) override {
    return fs_.Rename(a, b);
  }
  absl::Status Remove(const std::string& p) override { return fs_.Remove(p); }
  absl::Status SyncDirectory(const std::string& p) override { return fs_.SyncDirectory(p); }

 private:
  struct File : WritableFile {
    File(FullDisk& d, std::unique_ptr<WritableFile> f) : disk(d), file(std::move(f)) {}
    absl::Status Append(absl::string_view bytes) override {
      if (!disk.full) return file->Append(bytes);
      // Half of it arrives: what a full disk does.
      (void)file->Append(bytes.substr(0, bytes.size() / 2));
      return Refused();
    }
    absl::Status Sync() override { return disk.full ? Refused() : file->Sync(); }
    absl::Status Close() override { return file->Close(); }
    FullDisk& disk;
    std::unique_ptr<WritableFile> file;
  };
  static absl::Status Refused() { return absl::ResourceExhaustedError("no space left"); }

  FileSystem& fs_ = PosixFileSystem();
};

class SpoolTest : public testing::Test {
 protected:
  std::unique_ptr<Spool> Open(const std::string& incarnation, int64_t bytes_max = 64 << 20,
                              int64_t segment_bytes = 1 << 20) {
    auto spool = Spool::Open(disk_, {.directory = folder(),
                                     .incarnation = incarnation,
                                     .bytes_max = bytes_max,
                                     .segment_bytes = segment_bytes});
    EXPECT_THAT(spool, IsOk());
    return *std::move(spool);
  }
  std::string folder() const { return JoinPath(directory_.path(), "spool"); }
  std::vector<std::string> Segments() { return *PosixFileSystem().List(folder()); }

  static std::vector<SpooledRecord> TakeAll(Spool& spool) {
    std::vector<SpooledRecord> records;
    spool.Rewind();
    while (spool.HasUnsent()) {
      for (absl::string_view bytes : spool.TakeUnsent(1 << 20)) {
        records.push_back(*link::DecodeRecord(bytes));
      }
    }
    return records;
  }
  static std::vector<int64_t> Steps(const std::vector<SpooledRecord>& records) {
    std::vector<int64_t> steps;
    for (const SpooledRecord& record : records) {
      if (const auto* step = std::get_if<link::StepRecord>(&record.record))
        steps.push_back(step->step);
    }
    return steps;
  }

  TemporaryDirectory directory_;
  FullDisk disk_;
};

TEST_F(SpoolTest, NumbersRecordsAndHandsThemInInOrder) {
  auto spool = Open("a");
  ASSERT_THAT(spool->Append({Step(1), Line("x")}), IsOk());
  ASSERT_THAT(spool->Append({Step(2)}), IsOk());
  const auto records = TakeAll(*spool);
  ASSERT_THAT(records, SizeIs(3));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(records[i].number, i + 1);
    EXPECT_EQ(records[i].incarnation, "a");
  }
  EXPECT_FALSE(spool->HasUnsent());
  EXPECT_EQ(spool->unacknowledged(), 3);
}

TEST_F(SpoolTest, WhatIsAcknowledgedIsForgottenAndTheRestIsSentAgainInANewSession) {
  auto spool = Open("a");
  ASSERT_THAT(spool->Append({Step(1), Step(2), Step(3)}), IsOk());
  TakeAll(*spool);
  spool->Acknowledge(2);
  EXPECT_EQ(spool->unacknowledged(), 1);
  EXPECT_THAT(Steps(TakeAll(*spool)), ElementsAre(3));
}

TEST_F(SpoolTest, ARestartedAgentHandsInWhatItsFormerLifeCouldNotUnderTheOldName) {
  {
    auto spool = Open("a");
    ASSERT_THAT(spool->Append({Step(1), Step(2)}), IsOk());
    spool->Acknowledge(1);
  }
  auto spool = Open("b");
  ASSERT_THAT(spool->Append({Step(3)}), IsOk());
  const auto records = TakeAll(*spool);
  ASSERT_THAT(Steps(records), ElementsAre(1, 2, 3)) << "a segment goes only as a whole";
  EXPECT_EQ(records[1].incarnation, "a");
  EXPECT_EQ(records[1].number, 2);
  EXPECT_EQ(records[2].incarnation, "b");
  EXPECT_EQ(records[2].number, 3);
}

TEST_F(SpoolTest, NumbersRiseOverRestartsThoughNoRecordIsLeft) {
  {
    auto spool = Open("a", 64 << 20, /*segment_bytes=*/64);
    for (int i = 0; i < 10; ++i) ASSERT_THAT(spool->Append({Step(i)}), IsOk());
    spool->Acknowledge(10);
    EXPECT_THAT(Segments(), SizeIs(1));
  }
  for (const char* incarnation : {"b", "c"}) {
    auto spool = Open(incarnation);
    spool->Acknowledge(10);
    ASSERT_THAT(spool->Append({Step(11)}), IsOk());
    EXPECT_GT(TakeAll(*spool).back().number, 10);
  }
}

TEST_F(SpoolTest, SegmentsGoWhenAllTheirRecordsAreAcknowledged) {
  auto spool = Open("a", 64 << 20, /*segment_bytes=*/64);
  for (int i = 0; i < 20; ++i) ASSERT_THAT(spool->Append({Step(i)}), IsOk());
  const size_t before = Segments().size();
  EXPECT_GT(before, 5u);
  spool->Acknowledge(10);
  EXPECT_LT(Segments().size(), before);
  spool->Acknowledge(20);
  EXPECT_THAT(Segments(), SizeIs(1));
}

TEST_F(SpoolTest, ACutAtAnyByteCostsOnlyTheRecordThatIsCut) {
  std::string whole;
  {
    auto spool = Open("a");
    ASSERT_THAT(spool->Append({Step(1), Step(2), Happened("x")}), IsOk());
    whole = *PosixFileSystem().ReadFile(JoinPath(folder(), Segments()[0]), 1 << 20);
  }
  size_t most = 0;
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    ASSERT_THAT(RemoveTree(PosixFileSystem(), folder()), IsOk());
    ASSERT_THAT(PosixFileSystem().MakeDirectories(folder()), IsOk());
    std::ofstream(JoinPath(folder(), "segment-000000000001.spool"), std::ios::binary)
        << whole.substr(0, cut);
    auto spool = Open("b");
    const auto records = TakeAll(*spool);
    size_t old = 0;
    for (const SpooledRecord& record : records) old += record.incarnation == "a";
    EXPECT_LE(old, 3u);
    EXPECT_GE(old, most) << "longer files hold more";
    most = old;
    if (cut == whole.size()) {
      EXPECT_THAT(records, SizeIs(3)) << "nothing is reported where nothing is lost";
    }
  }
  EXPECT_EQ(most, 3u);
}

TEST_F(SpoolTest, AFlippedBitAnywhereLosesAtMostWhatItHitsAndIsReported) {
  {
    auto spool = Open("a");
    ASSERT_THAT(spool->Append({Step(1), Step(2), Step(3)}), IsOk());
  }
  const std::string name = JoinPath(folder(), Segments()[0]);
  const std::string whole = *PosixFileSystem().ReadFile(name, 1 << 20);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string bad = whole;
    bad[at] ^= 0x10;
    ASSERT_THAT(RemoveTree(PosixFileSystem(), folder()), IsOk());
    ASSERT_THAT(PosixFileSystem().MakeDirectories(folder()), IsOk());
    std::ofstream(name, std::ios::binary) << bad;
    auto spool = Open("b");
    const auto records = TakeAll(*spool);
    for (int64_t step : Steps(records)) EXPECT_TRUE(step >= 1 && step <= 3) << step;
    const bool told = std::any_of(records.begin(), records.end(), [](const SpooledRecord& r) {
      const auto* event = std::get_if<link::Event>(&r.record);
      return event != nullptr && event->kind == "spool_damaged";
    });
    EXPECT_TRUE(told) << at;
    // Payloads are skipped by their length: the records behind them are kept.
    if (at < 20) {
      EXPECT_THAT(Steps(records), ElementsAre(1, 2, 3)) << at;
    }
    if (at > 30 && at < 40) {
      EXPECT_THAT(Steps(records), ElementsAre(2, 3)) << at;
    }
  }
}

TEST_F(SpoolTest, OnOverflowStepsAreThinnedOneGapSaysSoAndLifecycleStays) {
  auto spool = Open("a", /*bytes_max=*/20'000, /*segment_bytes=*/4'000);
  for (int i = 1; i <= 2000; ++i) {
    ASSERT_THAT(spool->Append({Step(i)}), IsOk());
    if (i % 100 == 0) {
      ASSERT_THAT(spool->Append({Happened("e" + std::to_string(i))}), IsOk());
    }
    EXPECT_LE(spool->bytes(), 21'000);
  }
  const auto records = TakeAll(*spool);
  std::vector<link::Gap> gaps;
  int events = 0;
  for (const SpooledRecord& record : records) {
    if (const auto* gap = std::get_if<link::Gap>(&record.record)) gaps.push_back(*gap);
    events += std::holds_alternative<link::Event>(record.record);
  }
  EXPECT_EQ(events, 20);
  ASSERT_THAT(gaps, SizeIs(1));
  const std::vector<int64_t> steps = Steps(records);
  const std::set<int64_t> kept(steps.begin(), steps.end());
  for (int64_t i = 1; i <= 2000; ++i) {
    const bool in_gap = gaps[0].first_step <= i && i <= gaps[0].last_step;
    EXPECT_TRUE(kept.count(i) || in_gap) << i;
  }
  EXPECT_TRUE(kept.count(2000)) << "the newest are the most interesting";
  EXPECT_EQ(spool->dropped(), 2000 - static_cast<int64_t>(kept.size()));
  int64_t disk = 0;
  for (const std::string& name : Segments())
    disk += PosixFileSystem().Stat(JoinPath(folder(), name))->bytes;
  EXPECT_LT(disk, 60'000) << "the disk is bounded too";
  // The same after a restart.
  spool = nullptr;
  EXPECT_EQ(Steps(TakeAll(*Open("b"))), steps);
}

TEST_F(SpoolTest, OnOverflowOutputIsThinnedAndALineSaysSo) {
  auto spool = Open("a", /*bytes_max=*/10'000);
  for (int i = 0; i < 500; ++i) ASSERT_THAT(spool->Append({Line(std::string(100, 'x'))}), IsOk());
  bool told = false;
  for (const SpooledRecord& record : TakeAll(*spool)) {
    told |= std::get<link::LogLine>(record.record).text.find("lines of output were dropped") !=
            std::string::npos;
  }
  EXPECT_TRUE(told);
}

TEST_F(SpoolTest, AFullDiskCostsNothingAndIsCaughtUpWith) {
  auto spool = Open("a");
  ASSERT_THAT(spool->Append({Step(1)}), IsOk());
  disk_.full = true;
  EXPECT_THAT(spool->Append({Step(2)}), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_FALSE(spool->on_disk());
  EXPECT_THAT(spool->Append({Happened("x")}), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(TakeAll(*spool), SizeIs(3)) << "handed in from memory";
  disk_.full = false;
  EXPECT_THAT(spool->Append({Step(3)}), IsOk());
  EXPECT_TRUE(spool->on_disk());
  spool = nullptr;
  const auto records = TakeAll(*Open("b"));
  EXPECT_THAT(Steps(records), ElementsAre(1, 2, 3));
}

TEST_F(SpoolTest, AMessageTakesABoundedNumberOfBytesButAlwaysOneRecord) {
  auto spool = Open("a");
  ASSERT_THAT(spool->Append({Line(std::string(5000, 'x')), Step(1), Step(2)}), IsOk());
  EXPECT_THAT(spool->TakeUnsent(1000), SizeIs(1));
  EXPECT_THAT(spool->TakeUnsent(1000), SizeIs(2));
}

TEST_F(SpoolTest, NotTooMuchIsInFlight) {
  auto opened =
      Spool::Open(disk_, {.directory = folder(), .incarnation = "a", .in_flight_max = 10'000});
  ASSERT_THAT(opened, IsOk());
  Spool& spool = **opened;
  for (int i = 0; i < 10; ++i) ASSERT_THAT(spool.Append({Line(std::string(4000, 'x'))}), IsOk());
  while (spool.HasUnsent()) spool.TakeUnsent(1000);
  EXPECT_THAT(spool.TakeUnsent(1000), SizeIs(0));
  spool.Acknowledge(1);
  EXPECT_THAT(spool.TakeUnsent(1000), SizeIs(1));
}

TEST_F(SpoolTest, FilesOfOthersInItsFolderAreLeftAlone) {
  ASSERT_THAT(PosixFileSystem().MakeDirectories(folder()), IsOk());
  std::ofstream(JoinPath(folder(), "notes.txt")) << "mine";
  auto spool = Open("a");
  ASSERT_THAT(spool->Append({Step(1)}), IsOk());
  EXPECT_THAT(Segments(), testing::Contains("notes.txt"));
}

}  // namespace
}  // namespace vitscale::agent
