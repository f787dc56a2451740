#include "worker/checkpoint/checkpoint_store.h"

#include <sys/stat.h>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "kernels/base/path.h"
#include "tests/fault/fault_file.h"
#include "tests/status_matchers.h"
#include "tests/worker/checkpoint/checkpoint_test_util.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class CheckpointStoreTest : public testing::Test {
 protected:
  CheckpointStoreTest() : store_(*CheckpointStore::Open(fs_, kTestDir, kTestJob)) {}

  absl::Status SaveAs(const CheckpointName& name, float value, int64_t lineage = 1) {
    TestState state(value);
    return Save(store_, name, state, lineage);
  }
  float Load(const CheckpointName& name) {
    TestState state;
    EXPECT_THAT(store_.Read(name, state.Targets()), IsOk());
    EXPECT_EQ(state, TestState(state.bias[0]));
    return state.bias[0];
  }
  std::vector<int64_t> UsableSteps() {
    std::vector<int64_t> steps;
    const auto usable = store_.Usable();
    EXPECT_THAT(usable, IsOk());
    for (const CheckpointEntry& entry : *usable) steps.push_back(entry.manifest.name.step);
    return steps;
  }
  std::string FileOf(const CheckpointName& name, int rank) const {
    return JoinPath(store_.PathOf(name), PartFileName(rank, 2));
  }

  FaultFileSystem fs_;
  CheckpointStore store_;
  const CheckpointName first_{1, 1, 100, false}, second_{1, 2, 200, false};
};

TEST_F(CheckpointStoreTest, WhatTwoRanksSaveIsRead) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  EXPECT_EQ(Load(first_), 1);
  EXPECT_THAT(store_.Verify(first_), IsOk());
  EXPECT_THAT(
      fs_.AllFiles(),
      ElementsAre(FileOf(first_, 0).substr(0, FileOf(first_, 0).rfind('/')) + "/manifest.json",
                  FileOf(first_, 0), FileOf(first_, 1)));
}

TEST_F(CheckpointStoreTest, WithoutManifestThereIsNoCheckpoint) {
  TestState state(1);
  ASSERT_THAT(store_.Begin(first_), IsOk());
  ASSERT_THAT(store_.WritePart(first_, 0, 2, state.Share(0)), IsOk());
  EXPECT_THAT(UsableSteps(), IsEmpty());
  const CheckpointListing listing = *store_.List();
  ASSERT_EQ(listing.incomplete.size(), 1u);
  EXPECT_EQ(listing.incomplete[0].reason, "no manifest");
  EXPECT_THAT(store_.ReadManifest(first_), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(CheckpointStoreTest, APartThatWasReportedDurableSurvivesAPowerCut) {
  TestState state(1);
  std::vector<PartFile> files;
  for (int rank = 0; rank < 2; ++rank) {
    ASSERT_THAT(store_.Begin(first_), IsOk());
    files.push_back(*store_.WritePart(first_, rank, 2, state.Share(rank)));
  }
  fs_.Restart(AfterCrash::kLoseUnsynced);
  ASSERT_THAT(store_.WriteManifest(TestManifest(first_, files)), IsOk());
  EXPECT_EQ(Load(first_), 1);
}

TEST_F(CheckpointStoreTest, ManifestNeedsEveryPartWithItsSize) {
  TestState state(1);
  ASSERT_THAT(store_.Begin(first_), IsOk());
  PartFile file = *store_.WritePart(first_, 0, 2, state.Share(0));
  const PartFile missing{PartFileName(1, 2), 10, 0};
  EXPECT_THAT(store_.WriteManifest(TestManifest(first_, {file, missing})),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("is missing")));
  ++file.bytes;
  EXPECT_THAT(store_.WriteManifest(TestManifest(first_, {file})),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("the manifest says")));
  EXPECT_THAT(UsableSteps(), IsEmpty());
}

TEST_F(CheckpointStoreTest, NothingIsEverWrittenTwice) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  EXPECT_THAT(SaveAs(first_, 2), StatusIs(absl::StatusCode::kAlreadyExists));
  TestState state(2);
  EXPECT_THAT(store_.WritePart(first_, 0, 2, state.Share(0)),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(Load(first_), 1);  // the refused write has not removed the file that was there
  EXPECT_THAT(store_.WriteManifest(store_.List()->valid[0].manifest),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(CheckpointStoreTest, LatestIsTheGreatestLineageStepAttemptGeneration) {
  ASSERT_THAT(SaveAs({1, 9, 300, false}, 1), IsOk());
  ASSERT_THAT(SaveAs({2, 1, 300, false}, 1), IsOk());
  ASSERT_THAT(SaveAs({2, 1, 300, true}, 1), IsOk());
  ASSERT_THAT(SaveAs({3, 1, 200, false}, 1, 2), IsOk());
  ASSERT_THAT(SaveAs({4, 1, 100, false}, 1), IsOk());
  std::vector<std::string> names;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<CheckpointEntry> usable, store_.Usable());
  for (const CheckpointEntry& entry : usable) names.push_back(entry.manifest.name.Text());
  EXPECT_THAT(names, ElementsAre("a0003.g0001.step_000000200", "a0002.g0001.step_000000300",
                                 "a0002.g0001.step_000000300.emergency",
                                 "a0001.g0009.step_000000300", "a0004.g0001.step_000000100"));
}

TEST_F(CheckpointStoreTest, EveryFlippedBitOfAPartIsFound) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  for (int rank = 0; rank < 2; ++rank) {
    const std::string path = FileOf(first_, rank);
    const int64_t bytes = fs_.Stat(path)->bytes;
    for (int64_t byte = 0; byte < bytes; ++byte) {
      fs_.FlipBit(path, byte, byte % 8);
      TestState state;
      EXPECT_THAT(store_.Read(first_, state.Targets()), testing::Not(IsOk()))
          << path << " " << byte;
      fs_.FlipBit(path, byte, byte % 8);
    }
  }
  EXPECT_EQ(Load(first_), 1);
}

TEST_F(CheckpointStoreTest, AZeroFilledPartIsFoundAndSetAside) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  ASSERT_THAT(SaveAs(second_, 2), IsOk());
  const std::string path = FileOf(second_, 1);
  fs_.FlipBit(path, fs_.Stat(path)->bytes - 1, 0);
  EXPECT_THAT(store_.Verify(second_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("crc32c is")));
  EXPECT_THAT(store_.Verify(second_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(store_.IdOf(second_))));
  EXPECT_THAT(store_.SetAside(second_), IsOk());
  EXPECT_THAT(UsableSteps(), ElementsAre(100));
  EXPECT_EQ(Load(first_), 1);
  ASSERT_THAT(SaveAs(second_, 3), IsOk());  // the same step again, and bad again
  EXPECT_THAT(store_.SetAside(second_), IsOk());
  EXPECT_TRUE(*fs_.Exists(JoinPath(store_.JobPath(), "bad." + second_.Text() + ".1")));
}

TEST_F(CheckpointStoreTest, AMissingOrShortPartMakesItInvalidInTheList) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  ASSERT_THAT(SaveAs(second_, 2), IsOk());
  fs_.Truncate(FileOf(second_, 0), 10);
  EXPECT_THAT(UsableSteps(), ElementsAre(100));
  ASSERT_THAT(fs_.Remove(FileOf(second_, 0)), IsOk());
  EXPECT_THAT(UsableSteps(), ElementsAre(100));
  EXPECT_THAT(store_.List()->incomplete[0].reason, HasSubstr("is missing"));
}

TEST_F(CheckpointStoreTest, AManifestCopiedFromElsewhereIsRefused) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  const std::string text = *fs_.ReadFile(JoinPath(store_.PathOf(first_), "manifest.json"), 1 << 20);
  ASSERT_THAT(store_.Begin(second_), IsOk());
  ASSERT_THAT(WriteFileAtomically(fs_, JoinPath(store_.PathOf(second_), "manifest.json"), text),
              IsOk());
  EXPECT_THAT(UsableSteps(), ElementsAre(100));
  EXPECT_THAT(store_.ReadManifest(second_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(first_.Text())));
}

TEST_F(CheckpointStoreTest, TensorsMustMatchExactly) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  TestState state;
  std::vector<TensorTarget> targets = state.Targets();
  targets.pop_back();
  EXPECT_THAT(store_.Read(first_, targets),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("belongs to nothing")));
  EXPECT_THAT(store_.Read(first_, targets, ExtraTensors::kIgnore), IsOk());
  targets = state.Targets();
  targets[0].shape = {3, 2};
  EXPECT_THAT(store_.Read(first_, targets), StatusIs(absl::StatusCode::kInvalidArgument,
                                                     HasSubstr("is f32 [2, 3], want f32 [3, 2]")));
  targets[0] = {"params/other", DType::kF32, {2, 3}, targets[0].to};
  EXPECT_THAT(store_.Read(first_, targets, ExtraTensors::kIgnore),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("params/other")));
}

TEST_F(CheckpointStoreTest, AFullDiskCostsTheSaveAndNothingElse) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  int64_t used = 0;
  for (const std::string& path : fs_.AllFiles()) used += fs_.Stat(path)->bytes;
  fs_.SetCapacity(used + 100);
  EXPECT_THAT(SaveAs(second_, 2), StatusIs(absl::StatusCode::kResourceExhausted,
                                           HasSubstr("save checkpoint " + store_.IdOf(second_))));
  EXPECT_THAT(UsableSteps(), ElementsAre(100));
  EXPECT_EQ(fs_.AllFiles().size(), 3u);  // no partial file is left to fill the disk
  EXPECT_THAT(store_.Discard(second_), IsOk());
  fs_.SetCapacity(int64_t{1} << 40);
  EXPECT_THAT(SaveAs(second_, 2), IsOk());
  EXPECT_EQ(Load(second_), 2);
}

TEST_F(CheckpointStoreTest, AnErrorOfTheDiskAtAnyOperationIsReported) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  const int64_t before = fs_.operations();
  ASSERT_THAT(SaveAs({1, 3, 300, false}, 3), IsOk());
  const int64_t count = fs_.operations() - before;
  for (int64_t k = 0; k < count; ++k) {
    const CheckpointName name{1, 10 + k, 400, false};
    const int64_t fail = fs_.operations() + k;
    fs_.SetHook([fail](const FileOperation& operation) {
      // Removing an old temporary that is not there may fail unseen; everything else must not.
      const bool matters = operation.number == fail && operation.kind != "remove";
      return matters ? absl::InternalError("Input/output error") : absl::OkStatus();
    });
    const absl::Status saved = SaveAs(name, 4);
    fs_.SetHook(nullptr);
    if (saved.ok()) {
      EXPECT_EQ(Load(name), 4) << k;
      continue;
    }
    EXPECT_THAT(saved, StatusIs(absl::StatusCode::kInternal)) << k;
    EXPECT_EQ(Load({1, 3, 300, false}), 3);
  }
}

TEST_F(CheckpointStoreTest, TheProbeTellsASharedFolderFromAnother) {
  EXPECT_THAT(store_.ReadProbe(1, 2, "secret"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is not shared")));
  ASSERT_THAT(store_.WriteProbe(1, 2, "secret"), IsOk());
  EXPECT_THAT(store_.ReadProbe(1, 2, "secret"), IsOk());
  EXPECT_THAT(store_.ReadProbe(1, 2, "another"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another generation")));
  for (const std::string& path : fs_.AllFiles()) {
    EXPECT_THAT(*fs_.ReadFile(path, 1024), testing::Not(HasSubstr("secret")));
  }
  ASSERT_THAT(store_.WriteProbe(1, 3, "s"), IsOk());  // removes the one left by generation 2
  EXPECT_EQ(fs_.AllFiles().size(), 1u);
  EXPECT_THAT(store_.RemoveProbe(1, 3), IsOk());
  EXPECT_THAT(store_.RemoveProbe(1, 3), IsOk());
  EXPECT_THAT(fs_.AllFiles(), IsEmpty());
}

TEST_F(CheckpointStoreTest, AFolderThatCannotBeWrittenIsSaid) {
  fs_.SetHook([](const FileOperation& operation) {
    return operation.kind == "make" ? ErrnoStatus(EROFS, "make directory") : absl::OkStatus();
  });
  EXPECT_THAT(CheckpointStore::Open(fs_, "/other", "job"),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       HasSubstr("checkpoint.dir cannot be written to")));
  EXPECT_THAT(CheckpointStore::Open(fs_, "/other", "../job"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(CheckpointStoreTest, ARollBackAbandonsWhatCameAfterItsParent) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  ASSERT_THAT(SaveAs(second_, 2), IsOk());
  const CheckpointEntry parent = (*store_.Usable())[1];
  ASSERT_THAT(store_.OpenLineage(2, &parent, absl::UnixEpoch()), IsOk());
  EXPECT_THAT(UsableSteps(), ElementsAre(100));
  EXPECT_EQ(store_.List()->next_lineage(), 3);
  EXPECT_THAT(store_.OpenLineage(2, &parent, absl::Now()), IsOk());  // told twice
  EXPECT_THAT(store_.OpenLineage(2, nullptr, absl::Now()),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(store_.OpenLineage(1, &parent, absl::Now()),
              StatusIs(absl::StatusCode::kAlreadyExists));
  ASSERT_THAT(SaveAs({1, 3, 150, false}, 3, 2), IsOk());
  EXPECT_THAT(UsableSteps(), ElementsAre(150, 100));
}

TEST_F(CheckpointStoreTest, ABrokenTombstoneIsNeverIgnored) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  ASSERT_THAT(store_.OpenLineage(2, nullptr, absl::UnixEpoch()), IsOk());
  fs_.Truncate(JoinPath(store_.JobPath(), "lineage_0002.json"), 5);
  EXPECT_THAT(store_.Usable(),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("lineage_0002.json")));
}

// Opening one waits for somebody who writes: nobody ever would.
TEST(CheckpointStoreOnDiskTest, AFifoInPlaceOfATombstoneOrAManifestIsToldNotWaitedFor) {
  const TemporaryDirectory folder;
  FileSystem& fs = PosixFileSystem();
  VITSCALE_ASSERT_OK_AND_ASSIGN(CheckpointStore store,
                                CheckpointStore::Open(fs, folder.path(), kTestJob));
  const CheckpointName name{1, 1, 100, false};
  ASSERT_THAT(store.Begin(name), IsOk());
  ASSERT_EQ(mkfifo(JoinPath(store.PathOf(name), "manifest.json").c_str(), 0600), 0);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointListing listing, store.List());
  ASSERT_EQ(listing.incomplete.size(), 1u);
  EXPECT_THAT(listing.incomplete[0].reason, HasSubstr("is a FIFO, not a regular file"));
  ASSERT_EQ(mkfifo(JoinPath(store.JobPath(), "lineage_0002.json").c_str(), 0600), 0);
  EXPECT_THAT(store.Usable(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("lineage_0002.json': is a FIFO")));
}

TEST_F(CheckpointStoreTest, RetentionRemovesWhatMayGoAndTellsIt) {
  for (int64_t step : {100, 200, 300, 400}) ASSERT_THAT(SaveAs({1, 1, step, false}, 1), IsOk());
  ASSERT_THAT(store_.Begin({1, 1, 250, false}), IsOk());  // broken off
  fs_.SetModified(store_.PathOf({1, 1, 250, false}), absl::UnixEpoch());
  RetentionRequest request;
  request.attempt = request.generation = 1;
  request.keep_last = 2;
  request.keep_every_steps = 200;
  request.now = absl::FromUnixSeconds(1'700'000'000);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<std::string> removed, store_.Retain(request));
  EXPECT_THAT(removed,
              ElementsAre(store_.IdOf({1, 1, 100, false}), store_.IdOf({1, 1, 250, false})));
  EXPECT_THAT(UsableSteps(), ElementsAre(400, 300, 200));
  EXPECT_THAT(*store_.Retain(request), IsEmpty());
}

TEST_F(CheckpointStoreTest, DiscardLeavesCompleteOnesAlone) {
  ASSERT_THAT(SaveAs(first_, 1), IsOk());
  EXPECT_THAT(store_.Discard(first_), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(store_.Discard(second_), IsOk());  // nothing there
  EXPECT_EQ(Load(first_), 1);
}

}  // namespace
}  // namespace vitscale
