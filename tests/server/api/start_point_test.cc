#include "server/api/start_point.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"
#include "proto/spec/job_spec.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

constexpr char kJob[] = R"(
name: long
model: {custom: {patch: 4, width: 32, depth: 2, heads: 2, mlp_width: 64}, image_size: 16, channels: 1, classes: 4}
data: {train: {format: synthetic, synthetic_images: 1024}}
optimizer: {lr: 1e-3}
schedule: {total: 100 steps}
batch: {global: 32, micro: 8}
checkpoint: {dir: team/runs}
)";

std::string Name(int step) { return absl::StrCat("a0001.g0001.step_0000000", step); }

class StartPointTest : public testing::Test {
 protected:
  StartPointTest() {
    store_ = *ControlStore::Open(folder_.path() + "/control.db", {});
    JobRow row = Row("long00000000", "long");
    jobs_.Publish(row);
    jobs_.Publish(Row("empty0000000", "empty"));
    jobs_.Publish(Row("twin10000000", "twin"));
    jobs_.Publish(Row("twin20000000", "twin"));
    Changes changes;
    for (const int step : {20, 40, 60, 80}) {
      v1::CheckpointInfo& info = changes.checkpoints.emplace_back();
      info.set_id(absl::StrCat("long00000000/", Name(step)));
      info.set_step(step);
      info.set_lineage(1);
      info.set_attempt(1);
      info.set_generation(1);
      info.set_deleted(step == 20 || step == 80);
    }
    store_->Start({});
    store_->Commit({1, changes});
    store_->Stop();
  }

  JobRow Row(const std::string& id, const std::string& name) {
    JobRow row;
    row.set_number(++number_);
    row.mutable_job()->set_id(id);
    *row.mutable_job()->mutable_spec() =
        *Canonicalize(*ParseJobSpec(kJob, SpecFormat::kYaml, {absl::StrCat("name=", name)}));
    return row;
  }
  // A job that starts from `from`, completed.
  absl::StatusOr<v1::JobSpec> Complete(const std::string& from,
                                       const std::vector<std::string>& set = {}) {
    VITSCALE_ASSIGN_OR_RETURN(v1::JobSpec spec, ParseJobSpec(kJob, SpecFormat::kYaml, set));
    spec.set_from(from);
    VITSCALE_RETURN_IF_ERROR(CompleteStart(jobs_, *store_, &spec));
    return spec;
  }
  absl::Status Check(const std::vector<std::string>& set) {
    VITSCALE_ASSIGN_OR_RETURN(const v1::JobSpec spec, Complete("long", set));
    VITSCALE_ASSIGN_OR_RETURN(const v1::JobSpec canonical, Canonicalize(spec));
    return CheckStartPoint(jobs_, canonical);
  }

  const TemporaryDirectory folder_;
  std::unique_ptr<ControlStore> store_;
  JobDirectory jobs_;
  int64_t number_ = 0;
};

TEST_F(StartPointTest, ShortFormsBecomeTheFolderBelowTheParentsDirectory) {
  const std::string newest = absl::StrCat("team/runs/long00000000/", Name(60));
  EXPECT_EQ(Complete("long")->from(), newest) << "the newest that is not deleted";
  EXPECT_EQ(Complete("long00000000")->from(), newest);
  EXPECT_EQ(Complete("long/" + Name(40))->from(), "team/runs/long00000000/" + Name(40));
  EXPECT_EQ(Complete("long00000000/" + Name(60))->from(), newest);
  EXPECT_EQ(Complete(newest)->from(), newest);
  EXPECT_EQ(Complete("")->from(), "");
}

TEST_F(StartPointTest, WhatIsNotThereIsNamed) {
  EXPECT_THAT(Complete("nobody"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("from: no job")));
  EXPECT_THAT(Complete("twin"), StatusIs(absl::StatusCode::kFailedPrecondition,
                                         HasSubstr("from: 2 jobs named 'twin' have not ended")));
  EXPECT_THAT(Complete("empty"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("job empty0000000 (empty) has no checkpoint yet")));
  for (const char* form : {"long/", "team/runs/long00000000/"}) {
    EXPECT_THAT(Complete(form + Name(20)),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("deleted by retention")));
    EXPECT_THAT(
        Complete(form + Name(30)),
        StatusIs(absl::StatusCode::kNotFound, HasSubstr("from: no checkpoint 'long00000000/")));
  }
}

TEST_F(StartPointTest, AFolderOfAJobThatIsNotKnownHereIsLeftToTheWorkers) {
  for (const std::string& from : {absl::StrCat("imported/w00000000000/", Name(10)),
                                  absl::StrCat("/backup/runs/long00000000/", Name(20))}) {
    EXPECT_EQ(Complete(from)->from(), from);
  }
}

TEST_F(StartPointTest, AMicroBatchThatIsNotGivenIsTheParents) {
  EXPECT_EQ(Complete("long", {"batch.micro="})->batch().micro(), 8);
  EXPECT_EQ(Complete("long", {"batch.micro=16"})->batch().micro(), 16);
  EXPECT_EQ(Complete("long", {"batch={global: 64}"})->batch().micro(), 0);
  EXPECT_EQ(
      Complete("long", {"batch.micro=", "resources.workers={min: 8, max: 8}"})->batch().micro(), 0)
      << "one for each worker";
}

TEST_F(StartPointTest, ABranchThatCannotWorkIsRefusedWithBothValues) {
  EXPECT_THAT(Check({"schedule.total=61 steps", "optimizer.lr=2e-3", "evals="}), IsOk());
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"model.custom.width=64", "from: model: width is 64, the checkpoint's run has 32"},
      {"model.classes=5", "classes is 5"},
      {"optimizer.name=adamw", "from: optimizer.name is adamw, the checkpoint's run has adafactor"},
      {"batch.global=64", "from: batch.global is 64, the checkpoint's run has 32"},
      {"seed=7", "from: seed is 7, the checkpoint's run has 0"},
      {"schedule.total=60 steps", "wanted more than the 60 steps"}};
  for (const auto& [set, error] : cases) {
    EXPECT_THAT(Check({set}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(error)))
        << set;
  }
  const std::string eval = "evals=[{name: val, data: {format: synthetic, synthetic_images: 5}}]";
  EXPECT_THAT(Check({"kind=evaluate", "from=long", eval, "seed=7", "batch="}), IsOk())
      << "an evaluation needs the model alone";
  EXPECT_THAT(Check({"kind=evaluate", "from=long", eval, "model.classes=5"}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace vitscale
