// The micro-batch of a job that names none, as submit fills it in.

#include "absl/strings/str_cat.h"
#include "tests/server/api/services_fixture_rpc.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

class PlanningTest : public ServicesTest {
 protected:
  // A job whose memory matters; in this form the coordinator chooses the micro-batch.
  static v1::SubmitJobRequest Large(v1::Device device) {
    v1::SubmitJobRequest request;
    v1::JobSpec& spec = *request.mutable_spec();
    spec = Spec();
    spec.mutable_model()->Clear();
    spec.mutable_model()->set_variant("L/16");
    spec.mutable_model()->set_classes(1000);
    spec.mutable_resources()->set_device(device);
    spec.mutable_batch()->set_global(512);
    spec.mutable_batch()->clear_micro();
    return request;
  }
  v1::Job Planned(v1::Device device) {
    v1::SubmitJobRequest request = Large(device);
    request.set_validate_only(true);
    v1::SubmitJobResponse response;
    const grpc::Status status = control_->SubmitJob(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job();
  }
  void Join(const std::string& id, v1::Device kind, const std::string& model, int64_t memory) {
    Agent agent(*workers_, id);
    agent.request_.mutable_device()->set_kind(kind);
    agent.request_.mutable_device()->set_model(model);
    agent.request_.mutable_device()->set_bf16(kind == v1::DEVICE_CUDA);
    agent.request_.mutable_device()->set_memory_bytes(memory);
    ASSERT_TRUE(agent.Register().ok());
  }
};

TEST_F(PlanningTest, WithCardsAloneAJobForAnyDeviceIsPlannedForThemAndSaysSo) {
  EXPECT_EQ(Planned(v1::DEVICE_ANY).spec().batch().micro(), 256);
  EXPECT_THAT(Planned(v1::DEVICE_ANY).message(), HasSubstr("no worker is known that limits it"));
  Join("a", v1::DEVICE_CUDA, "NVIDIA Small", 8 * kGiB);
  Join("b", v1::DEVICE_CUDA, "NVIDIA Small", 80 * kGiB);
  const v1::Job any = Planned(v1::DEVICE_ANY), cuda = Planned(v1::DEVICE_CUDA);
  const int micro = any.spec().batch().micro();
  EXPECT_EQ(micro, cuda.spec().batch().micro());
  EXPECT_LT(micro, 256);
  const std::string words =
      absl::StrCat("batch.micro ", micro, " fits 2 cuda workers (NVIDIA Small, 8 GiB)");
  EXPECT_EQ(any.message(), words);

  v1::SubmitJobResponse submitted;
  ASSERT_TRUE(control_->SubmitJob(Context().get(), Large(v1::DEVICE_ANY), &submitted).ok());
  EXPECT_EQ(submitted.job().spec().batch().micro(), micro);
  EXPECT_EQ(submitted.job().message(), "waits for workers; " + words);
  v1::StreamEventsRequest request;
  request.set_job_id(submitted.job().id());
  auto context = Context();
  auto reader = control_->StreamEvents(context.get(), request);
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.message(), "submitted as 'test'; " + words);
  while (reader->Read(&event)) {
  }

  Stop();
  Start();
  EXPECT_EQ(Get(submitted.job().id()).spec().batch().micro(), micro);
  EXPECT_EQ(Planned(v1::DEVICE_ANY).message(), words) << "workers are known from the store";
}

TEST_F(PlanningTest, WhatDoesNotFitEveryKindIsRefusedWithTheKindThatItFits) {
  Join("a", v1::DEVICE_CUDA, "NVIDIA Large", 80 * kGiB);
  Join("c", v1::DEVICE_CPU, "some CPU", 64 * kGiB);
  const int both = Planned(v1::DEVICE_ANY).spec().batch().micro();
  EXPECT_THAT(Planned(v1::DEVICE_ANY).message(),
              HasSubstr("1 cpu worker (64 GiB) and 1 cuda worker (NVIDIA Large, 80 GiB)"));
  EXPECT_LE(both, Planned(v1::DEVICE_CUDA).spec().batch().micro());
  EXPECT_LE(both, Planned(v1::DEVICE_CPU).spec().batch().micro());
  Join("d", v1::DEVICE_CPU, "some CPU", 2 * kGiB);
  v1::SubmitJobResponse response;
  const grpc::Status refused =
      control_->SubmitJob(Context().get(), Large(v1::DEVICE_ANY), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(
      refused.error_message(),
      AllOf(HasSubstr("2 cpu workers (2 GiB): plan needs"), HasSubstr("smallest change that fits:"),
            HasSubstr("or resources.device cuda, which fits 1 cuda worker")));
  EXPECT_GT(Planned(v1::DEVICE_CUDA).spec().batch().micro(), 0);
}

}  // namespace
}  // namespace vitscale
