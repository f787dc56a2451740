// Crash at every file operation of every change to a checkpoint folder, in every way a crash can
// go, and look at what is left: the previous checkpoint is always readable, and a new one is whole
// or not there at all.

#include <functional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/fault/fault_file.h"
#include "tests/status_matchers.h"
#include "tests/worker/checkpoint/checkpoint_test_util.h"

namespace vitscale {
namespace {

constexpr CheckpointName kOld{1, 1, 100, false}, kNew{1, 2, 200, false};

struct Case {
  AfterCrash how;
  uint64_t seed;
};

class CrashTest : public testing::TestWithParam<Case> {
 protected:
  using Act = std::function<absl::Status(CheckpointStore&)>;
  using Check = std::function<void(CheckpointStore&, bool finished)>;

  // Runs `act` on a fresh folder that holds kOld, once for every operation to crash at and once
  // without a crash.
  void CrashEverywhere(const Act& prepare, const Act& act, const Check& check) {
    for (int64_t k = 0;; ++k) {
      SCOPED_TRACE(absl::StrCat("crash at operation ", k));
      FaultFileSystem fs(GetParam().seed * 1000 + k);
      CheckpointStore store = *CheckpointStore::Open(fs, kTestDir, kTestJob);
      TestState old(1);
      ASSERT_THAT(Save(store, kOld, old), IsOk());
      ASSERT_THAT(prepare(store), IsOk());
      fs.CrashAt(fs.operations() + k);
      const absl::Status acted = act(store);
      const bool crashed = fs.crashed();
      fs.Restart(GetParam().how);
      check(store, !crashed && acted.ok());
      if (!crashed) {
        ASSERT_THAT(acted, IsOk());
        ASSERT_GE(k, 2) << "nothing was cut";
        return;
      }
    }
  }

  // Whatever List() calls valid is readable, bit for bit, and kOld is among it.
  static std::vector<CheckpointName> ReadAll(CheckpointStore& store) {
    std::vector<CheckpointName> names;
    const auto listing = store.List();
    EXPECT_THAT(listing, IsOk());
    if (!listing.ok()) return names;
    for (const CheckpointEntry& entry : listing->valid) {
      TestState state;
      EXPECT_THAT(store.Read(entry.manifest.name, state.Targets()), IsOk());
      EXPECT_EQ(state, TestState(entry.manifest.name == kOld ? 1 : 2));
      names.push_back(entry.manifest.name);
    }
    return names;
  }
};

absl::Status Nothing(CheckpointStore&) { return absl::OkStatus(); }

absl::Status SaveNew(CheckpointStore& store) {
  TestState state(2);
  return Save(store, kNew, state);
}

TEST_P(CrashTest, ASaveLeavesThePreviousOneAndIsWholeOrNotThere) {
  CrashEverywhere(Nothing, SaveNew, [](CheckpointStore& store, bool finished) {
    const std::vector<CheckpointName> names = ReadAll(store);
    ASSERT_FALSE(names.empty());
    EXPECT_EQ(names.back(), kOld);
    if (finished) {
      EXPECT_EQ(names.front(), kNew);
    }
  });
}

TEST_P(CrashTest, TheNextGenerationSavesTheSameStepUnderItsOwnName) {
  CrashEverywhere(Nothing, SaveNew, [](CheckpointStore& store, bool finished) {
    TestState state(2);
    const CheckpointName again{1, 3, 200, false};
    EXPECT_THAT(Save(store, again, state), IsOk());
    EXPECT_EQ(ReadAll(store).front(), again);
  });
}

TEST_P(CrashTest, RetentionNeverLeavesAManifestWithoutItsFiles) {
  const auto retain = [](CheckpointStore& store) {
    RetentionRequest request;
    request.attempt = 1;
    request.generation = 9;
    request.keep_last = 1;
    request.now = absl::FromUnixSeconds(1'700'000'000);
    return store.Retain(request).status();
  };
  CrashEverywhere(SaveNew, retain, [](CheckpointStore& store, bool finished) {
    EXPECT_EQ(ReadAll(store).front(), kNew);
    const auto listing = store.List();
    ASSERT_THAT(listing, IsOk());
    for (const IncompleteEntry& entry : listing->incomplete) {
      EXPECT_EQ(entry.name, kOld);
      EXPECT_FALSE(entry.has_manifest) << entry.reason;
    }
  });
}

TEST_P(CrashTest, ARollBackHappensWholeOrNotAtAll) {
  const auto roll_back = [](CheckpointStore& store) {
    const auto usable = store.Usable();
    if (!usable.ok()) return usable.status();
    return store.OpenLineage(2, &usable->back(), absl::UnixEpoch());
  };
  CrashEverywhere(SaveNew, roll_back, [&](CheckpointStore& store, bool finished) {
    const auto usable = store.Usable();
    ASSERT_THAT(usable, IsOk());
    EXPECT_EQ(usable->back().manifest.name, kOld);
    if (finished) {
      EXPECT_EQ(usable->size(), 1u);
    }
    EXPECT_THAT(store.OpenLineage(2, &usable->back(), absl::UnixEpoch()),
                IsOk());  // done again after the crash
    EXPECT_EQ(store.Usable()->size(), 1u);
  });
}

TEST_P(CrashTest, SettingAsideMovesTheFolderOrLeavesIt) {
  CrashEverywhere(
      SaveNew, [](CheckpointStore& store) { return store.SetAside(kNew); },
      [](CheckpointStore& store, bool finished) {
        const std::vector<CheckpointName> names = ReadAll(store);
        EXPECT_EQ(names.back(), kOld);
        if (finished) {
          EXPECT_EQ(names.size(), 1u);
        }
      });
}

std::vector<Case> AllCases() {
  std::vector<Case> cases = {{AfterCrash::kKeepAll, 1}, {AfterCrash::kLoseUnsynced, 1}};
  for (uint64_t seed = 1; seed <= 20; ++seed) cases.push_back({AfterCrash::kRandom, seed});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(AllWays, CrashTest, testing::ValuesIn(AllCases()));

}  // namespace
}  // namespace vitscale
