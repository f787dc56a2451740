#include "server/store/step_store.h"

#include <future>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

v1::SpooledRecord Step(int64_t number, int64_t step, int64_t generation, double loss) {
  v1::SpooledRecord record;
  record.set_number(number);
  record.set_incarnation("life");
  record.set_job_id("job");
  record.set_generation(generation);
  record.mutable_step()->set_step(step);
  record.mutable_step()->set_generation(generation);
  record.mutable_step()->set_loss(loss);
  record.mutable_step()->set_step_seconds(0.5);
  return record;
}

class StepStoreTest : public testing::Test {
 protected:
  StepStoreTest() {
    StepStoreOptions options;
    options.batch = absl::ZeroDuration();
    auto store = StepStore::Open(directory_.path() + "/steps.db", options);
    EXPECT_THAT(store, IsOk());
    store_ = *std::move(store);
    store_->Start({[this](std::map<std::string, StepStore::JobChange> changes) {
      for (auto& [job, change] : changes) changes_.push_back(change);
    }});
  }
  void Add(std::vector<v1::SpooledRecord> records) {
    std::promise<void> done;
    store_->Add("w0", std::move(records), [&] { done.set_value(); });
    done.get_future().wait();
  }
  TemporaryDirectory directory_;
  std::vector<StepStore::JobChange> changes_;
  std::unique_ptr<StepStore> store_;
};

TEST_F(StepStoreTest, AGreaterGenerationReplacesAStepAndALowerOneIsRefused) {
  Add({Step(1, 1, 2, 10), Step(2, 2, 2, 20)});
  Add({Step(3, 2, 1, 99)});
  Add({Step(4, 2, 3, 21)});
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::StepRecord> steps,
                                store_->Steps("job", 0, 10));
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[1].loss(), 21);
  EXPECT_EQ(changes_.back().steps.recomputed_seconds, 0.5);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const v1::StepRecord newest, store_->Newest("job"));
  EXPECT_EQ(newest.generation(), 3);
}

TEST_F(StepStoreTest, ARecordOfASpoolIsTakenOnce) {
  v1::SpooledRecord line;
  line.set_number(1);
  line.set_incarnation("life");
  line.set_job_id("job");
  line.mutable_log()->set_text("hello");
  Add({line});
  Add({line});  // sent again because the acknowledgement was lost
  line.set_number(2);
  Add({line});
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::LogLine> lines,
                                store_->Logs("job", 0, -1, absl::UnixEpoch(), 10));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1].sequence(), 2);
  EXPECT_EQ(lines[0].worker_id(), "w0");
}

TEST_F(StepStoreTest, LogsAreReadByRankByTailAndFromASequence) {
  for (int i = 0; i < 6; ++i) {
    v1::LogLine line;
    line.set_rank(i % 2);
    line.set_text(absl::StrCat("line ", i));
    store_->AddLog("job", line);
  }
  Add({});
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::LogLine> odd,
                                store_->Logs("job", 0, 1, absl::UnixEpoch(), 10));
  EXPECT_EQ(odd.size(), 3u);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const int64_t start, store_->LogStart("job", -1, 2));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::LogLine> tail,
                                store_->Logs("job", start, -1, absl::UnixEpoch(), 10));
  ASSERT_EQ(tail.size(), 2u);
  EXPECT_EQ(tail[0].text(), "line 4");
}

TEST_F(StepStoreTest, EvaluationsAreUniqueByNameAndStep) {
  v1::SpooledRecord record;
  record.set_job_id("job");
  record.set_generation(1);
  record.mutable_eval()->set_name("val");
  record.mutable_eval()->set_step(100);
  (*record.mutable_eval()->mutable_values())["top1"] = 0.5;
  Add({record});
  record.set_generation(2);
  (*record.mutable_eval()->mutable_values())["top1"] = 0.6;
  Add({record});
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<v1::EvalRecord> evals, store_->Evals("job"));
  ASSERT_EQ(evals.size(), 1u);
  EXPECT_EQ(evals[0].values().at("top1"), 0.6);
}

}  // namespace
}  // namespace vitscale
