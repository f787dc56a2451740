// NCCL itself, as far as one card goes: a communicator of one rank, a peer that never comes, aborts
// and the generation after. Where there is no NCCL it is skipped: one card needs none.

#include "kernels/communicator.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend_factory.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kCount = 1 << 20;
constexpr absl::Duration kLong = absl::Minutes(1);

absl::StatusOr<std::unique_ptr<Communicator>> Make() {
  CommunicatorOptions options;
  options.device = "cuda:0";
  options.on_abort_hung = [] { ADD_FAILURE() << "an abort did not return within 2 s"; };
  return CreateCommunicator(options);
}

class CommunicatorTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto communicator = Make();
    // Not there, or too old. A second communicator of a device has the same code.
    if (absl::IsFailedPrecondition(communicator.status()) &&
        absl::StrContains(communicator.status().message(), "NCCL")) {
      GTEST_SKIP() << communicator.status().message();
    }
    ASSERT_THAT(communicator, IsOk());
    backend_ = CreateBackend({.device = "cuda:0"}).value();
    ArenaBytes bytes{};
    bytes[static_cast<int>(Arena::kGradients)] = view_.bytes();
    ASSERT_THAT(backend_->Allocate(bytes), IsOk());
  }
  absl::Span<float> Gradients() {
    const absl::Span<std::byte> bytes = backend_->DeviceBytes(Arena::kGradients);
    return absl::MakeSpan(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
  }
  void Write(const std::vector<float>& values) {
    const auto* begin = reinterpret_cast<const std::byte*>(values.data());
    ASSERT_THAT(backend_->Write(view_, {begin, values.size() * sizeof(float)}), IsOk());
    (void)Read();  // waits: the communicator's stream is another one
  }
  std::vector<float> Read() {
    std::vector<float> values(kCount);
    auto* begin = reinterpret_cast<std::byte*>(values.data());
    EXPECT_THAT(backend_->Read(view_, absl::MakeSpan(begin, values.size() * sizeof(float))),
                IsOk());
    return values;
  }

  const TensorView view_{"gradients", Arena::kGradients, 0, DType::kF32, {kCount}};
  std::unique_ptr<Backend> backend_;
};

TEST_F(CommunicatorTest, SumsAndGathersOfOneRankAreItsOwnInEveryGeneration) {
  std::vector<float> values(kCount);
  for (int64_t i = 0; i < kCount; ++i) values[i] = static_cast<float>(i) / 3;
  Write(values);
  for (int generation = 0; generation < 3; ++generation) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const auto communicator, Make());
    EXPECT_THAT(communicator->algorithm(), StartsWith("nccl_2."));
    VITSCALE_ASSERT_OK_AND_ASSIGN(const std::string id, communicator->NewId());
    ASSERT_THAT(communicator->Connect(id, 0, 1, kLong), IsOk());
    for (int bucket = 0; bucket < 8; ++bucket) {
      ASSERT_THAT(communicator->AllReduceSum(Gradients().subspan(bucket * kCount / 8, kCount / 8)),
                  IsOk());
    }
    std::string own(40000, 'a'), all(own.size(), '\0');
    own[39999] = static_cast<char>('b' + generation);
    ASSERT_THAT(communicator->AllGather(own, absl::MakeSpan(all)), IsOk());
    EXPECT_EQ(all, own);
    EXPECT_EQ(Read(), values);
  }
}

TEST_F(CommunicatorTest, APeerThatNeverComesEndsConnectAtItsDeadlineAndTheNextGenerationWorks) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(auto alone, Make());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::string first, alone->NewId());
  EXPECT_THAT(alone->Connect(first, 0, 2, absl::Seconds(1)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("not all ranks came in time")));
  alone.reset();
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto next, Make());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::string second, next->NewId());
  EXPECT_THAT(next->Connect(second, 0, 1, kLong), IsOk());
}

TEST_F(CommunicatorTest, AfterAnAbortEveryCallSaysSo) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto communicator, Make());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::string id, communicator->NewId());
  ASSERT_THAT(communicator->Connect(id, 0, 1, kLong), IsOk());
  communicator->Abort();
  // The abort has a thread of its own, and may come after some of these.
  absl::Status status;
  for (int i = 0; status.ok() && i < 100000; ++i) status = communicator->AllReduceSum(Gradients());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled));
}

}  // namespace
}  // namespace vitscale
