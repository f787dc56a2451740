#include "proto/spec/message_text.h"

#include <limits>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale {
namespace {

TEST(MessageTextTest, EnumsAreWordsWithoutPrefix) {
  EXPECT_EQ(EnumWord(*v1::JobState_descriptor()->FindValueByNumber(v1::JOB_STATE_RUNNING)),
            "running");
  EXPECT_EQ(EnumWord(*v1::PositionEmbedding_descriptor()->FindValueByNumber(2)), "sincos2d");
  EXPECT_EQ(EnumShown(*v1::JobState_descriptor()->FindValueByNumber(v1::JOB_STATE_RUNNING)),
            "RUNNING");
  EXPECT_EQ(EnumByWord(*v1::Device_descriptor(), "cpu")->number(), v1::DEVICE_CPU);
  EXPECT_EQ(EnumByWord(*v1::Device_descriptor(), "DEVICE_CPU")->number(), v1::DEVICE_CPU);
  EXPECT_EQ(EnumByWord(*v1::Device_descriptor(), "unspecified"), nullptr);
}

TEST(MessageTextTest, JsonHasPlainNumbersTimesAndWords) {
  v1::Job job;
  job.set_id("abc");
  job.set_state(v1::JOB_STATE_QUEUED);
  job.set_total_steps(int64_t{1} << 53);
  job.mutable_submit_time()->set_seconds(1700000000);
  job.mutable_submit_time()->set_nanos(250'000'000);
  job.mutable_last_step()->set_loss(std::numeric_limits<double>::quiet_NaN());
  job.set_message("say \"hi\"\n");
  EXPECT_EQ(
      MessageToJson(job),
      R"({"id": "abc", "state": "QUEUED", "message": "say \"hi\"\n", "total_steps": 9007199254740992, )"
      R"("submit_time": "2023-11-14T22:13:20.250Z", "last_step": {"loss": "NaN"}})");
}

TEST(MessageTextTest, YamlQuotesOnlyWhatNeedsIt) {
  v1::Job job;
  job.set_id("123");  // a number to any YAML reader
  job.set_reason("waiting_for_workers");
  job.set_message("a: b");
  job.add_workers("w0");
  auto* eval = job.add_last_evals();
  eval->set_name("val");
  (*eval->mutable_values())["top1"] = 0.5;
  EXPECT_EQ(MessageToYaml(job), R"(id: "123"
reason: waiting_for_workers
message: "a: b"
last_evals:
  - name: val
    values:
      top1: 0.5
workers: ["w0"]
)");
}

// The comments of the .proto files are the manual of the interface: every field, value and method
// has one.
TEST(ProtoTest, WordsOfEnumsAreUniqueWithinTheirType) {
  const auto* file = v1::Job::descriptor()->file();
  for (int i = 0; i < file->enum_type_count(); ++i) {
    const auto* type = file->enum_type(i);
    for (int v = 1; v < type->value_count(); ++v) {
      EXPECT_EQ(EnumByWord(*type, EnumWord(*type->value(v))), type->value(v))
          << type->value(v)->name();
    }
  }
}

}  // namespace
}  // namespace vitscale
