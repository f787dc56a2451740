#include "server/store/control_store.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "server/store/state_directory.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

PersistAction Persist(uint64_t id, const std::string& job, int events = 1) {
  PersistAction persist;
  persist.id = id;
  JobRow& row = persist.changes.jobs.emplace_back();
  row.set_number(static_cast<int64_t>(id));
  row.mutable_job()->set_id(job);
  for (int i = 0; i < events; ++i) persist.changes.events.emplace_back().set_job_id(job);
  return persist;
}

class ControlStoreTest : public testing::Test {
 protected:
  std::string Path() { return directory_.path() + "/control.db"; }
  std::unique_ptr<ControlStore> Open(ControlStoreOptions options = {}) {
    options.retry_min = options.retry_max = absl::Milliseconds(1);
    auto store = ControlStore::Open(Path(), options);
    EXPECT_THAT(store, IsOk());
    return store.ok() ? *std::move(store) : nullptr;
  }
  TemporaryDirectory directory_;
};

TEST_F(ControlStoreTest, TheTermRisesWithEveryOpening) {
  EXPECT_EQ(Open()->term(), 1);
  EXPECT_EQ(Open()->term(), 2);
}

TEST_F(ControlStoreTest, EventsAreNumberedInTheOrderOfCommitsAndReadBack) {
  auto store = Open();
  std::promise<void> done;
  store->Start({[&](ControlStore::Committed committed) {
                  if (committed.id == 2) {
                    EXPECT_EQ(committed.changes.events[0].sequence(), 3);
                    done.set_value();
                  }
                },
                nullptr});
  store->Commit(Persist(1, "a", 2));
  store->Commit(Persist(2, "b", 1));
  done.get_future().wait();
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::Event> of_b, store->Events(0, "b", 10));
  ASSERT_EQ(of_b.size(), 1u);
  EXPECT_EQ(of_b[0].sequence(), 3);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::Event> all, store->Events(1, "", 10));
  EXPECT_EQ(all.size(), 2u);
  store.reset();
  VITSCALE_ASSERT_OK_AND_ASSIGN(const LoadedState state, Open()->Load());
  EXPECT_EQ(state.jobs.size(), 2u);
  EXPECT_EQ(state.last_job_number, 2);
}

TEST_F(ControlStoreTest, CompactedEventsAreOutOfRange) {
  {
    auto store = Open();
    store->Start({});
    store->Commit(Persist(1, "a", 20));
    store->Stop();
  }
  ControlStoreOptions options;
  options.events_max = 5;
  auto store = Open(options);
  EXPECT_THAT(store->Events(3, "", 10), StatusIs(absl::StatusCode::kOutOfRange));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::Event> events, store->Events(15, "", 10));
  EXPECT_EQ(events[0].sequence(), 16);
}

TEST_F(ControlStoreTest, AFailedCommitIsRetriedInOrderAndMutationsAreRefusedMeanwhile) {
  ControlStoreOptions options;
  std::atomic<int> failures = 2;
  options.fault = [&](const char* point) {
    return point == std::string("commit") && failures-- > 0 ? absl::UnavailableError("disk")
                                                            : absl::OkStatus();
  };
  auto store = Open(options);
  std::vector<std::string> seen;
  store->Start({[&](ControlStore::Committed committed) {
                  seen.push_back(absl::StrCat("committed ", committed.id));
                },
                [&](bool writable) { seen.push_back(writable ? "writable" : "refusing"); }});
  store->Commit(Persist(1, "a"));
  while (failures >= 0) usleep(1000);
  store->Stop();
  EXPECT_THAT(seen, testing::ElementsAre("refusing", "writable", "committed 1"));
}

TEST_F(ControlStoreTest, ACommitOfUnknownOutcomeIsReadAgainAndNotDoneTwice) {
  ControlStoreOptions options;
  std::atomic<int> failures = 1;
  options.fault = [&](const char* point) {
    return point == std::string("committed") && failures-- > 0
               ? absl::UnavailableError("lost the answer")
               : absl::OkStatus();
  };
  auto store = Open(options);
  bool refused = false;
  int committed = 0;
  store->Start({[&](ControlStore::Committed) { ++committed; }, [&](bool) { refused = true; }});
  store->Commit(Persist(1, "a"));
  store->Stop();
  EXPECT_FALSE(refused);
  EXPECT_EQ(committed, 1);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::Event> events, store->Events(0, "", 10));
  EXPECT_EQ(events.size(), 1u);
}

TEST_F(ControlStoreTest, RequestsAreFoundWithTheirHashAndAnswer) {
  auto store = Open();
  store->Start({});
  PersistAction persist = Persist(1, "a");
  persist.changes.requests.push_back({"r1", 0xffffffffffffffffull, "answer", absl::Now()});
  store->Commit(std::move(persist));
  store->Stop();
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto found, store->FindRequest("r1"));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->hash, 0xffffffffffffffffull);
  EXPECT_EQ(found->answer, "answer");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto missing, store->FindRequest("r2"));
  EXPECT_FALSE(missing.has_value());
}

TEST_F(ControlStoreTest, ASecondCoordinatorOnTheStateDirectoryIsOneClearError) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const StateDirectory first,
                                StateDirectory::Open(directory_.path() + "/state"));
  EXPECT_THAT(
      StateDirectory::Open(first.path()),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another coordinator (process ")));
}

TEST_F(ControlStoreTest, AFileOfAnotherSchemaIsRefused) {
  Open();
  {
    VITSCALE_ASSERT_OK_AND_ASSIGN(auto database,
                                  Database::Open(Path(), Database::Mode::kReadWrite));
    ASSERT_THAT(database->Execute("PRAGMA user_version=77"), IsOk());
  }
  EXPECT_THAT(ControlStore::Open(Path()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("schema version 77")));
}

// A child commits as fast as it can and says what was acknowledged; it is killed somewhere in the
// middle.
TEST_F(ControlStoreTest, WhatWasAcknowledgedSurvivesAKillDuringACommit) {
  for (int round = 0; round < 5; ++round) {
    int pipe_fds[2];
    ASSERT_EQ(pipe(pipe_fds), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto store = ControlStore::Open(Path());
      if (!store.ok()) _exit(1);
      auto state = (*store)->Load();
      (*store)->Start({[&](ControlStore::Committed committed) {
                         const uint64_t number = committed.changes.jobs[0].number();
                         (void)!write(pipe_fds[1], &number, sizeof(number));
                       },
                       nullptr});
      for (uint64_t i = 1;; ++i) {
        PersistAction persist = Persist(i, absl::StrCat("r", state->last_job_number + i));
        persist.changes.jobs[0].set_number(state->last_job_number + static_cast<int64_t>(i));
        (*store)->Commit(std::move(persist));
        usleep(100);
      }
    }
    close(pipe_fds[1]);
    int64_t acknowledged = 0, number = 0;
    for (int i = 0; i < 20 + 17 * round && read(pipe_fds[0], &number, sizeof(number)) > 0; ++i) {
      acknowledged = std::max(acknowledged, number);
    }
    kill(child, SIGKILL);
    while (read(pipe_fds[0], &number, sizeof(number)) == sizeof(number))
      acknowledged = std::max(acknowledged, number);
    waitpid(child, nullptr, 0);
    close(pipe_fds[0]);
    auto store = Open();
    VITSCALE_ASSERT_OK_AND_ASSIGN(const LoadedState state, store->Load());
    EXPECT_GE(state.last_job_number, acknowledged);
    EXPECT_EQ(static_cast<int64_t>(state.jobs.size()), state.last_job_number);  // no hole
    VITSCALE_ASSERT_OK_AND_ASSIGN(const int64_t last, store->LastEvent());
    EXPECT_EQ(last, state.last_job_number);  // job and event stand or fall together
  }
}

}  // namespace
}  // namespace vitscale
