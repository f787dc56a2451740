// What Backend checks before a device hears of it, by a device that counts what it hears.

#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBytes = 256;

class CountingBackend : public Backend {
 public:
  BackendInfo info() const override { return {}; }
  absl::Status Run(PreparedProgram&, const StepScalars&, MarkerSink*) override {
    return absl::OkStatus();
  }
  absl::Span<std::byte> HostBytes(Arena) override { return {}; }

  int allocated = 0, prepared = 0, written = 0, read = 0;
  bool full = false;

 protected:
  absl::Status DoAllocate(const ArenaBytes&) override {
    ++allocated;
    return full ? absl::ResourceExhaustedError("full") : absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<PreparedProgram>> DoPrepare(Program) override {
    ++prepared;
    return std::make_unique<PreparedProgram>();
  }
  absl::Status DoWrite(const TensorView&, absl::Span<const std::byte>) override {
    ++written;
    return absl::OkStatus();
  }
  absl::Status DoRead(const TensorView&, absl::Span<std::byte>) override {
    ++read;
    return absl::OkStatus();
  }
};

ArenaBytes InputOf(int64_t bytes) {
  ArenaBytes all{};
  all[static_cast<int>(Arena::kInput)] = bytes;
  return all;
}
TensorView View(int64_t bytes) { return {"x", Arena::kInput, 0, DType::kU8, {bytes}}; }
Program FillOf(int64_t count) {
  Program program;
  program.Add(FillArgs{.y = {"y", Arena::kInput, 0, DType::kF32, {count}}, .value = 0.0f});
  return program;
}

TEST(BackendChecksTest, NegativeArenaIsNamedAndTheDeviceHearsNothing) {
  CountingBackend backend;
  EXPECT_THAT(backend.Allocate(InputOf(-1)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1 bytes, want 0 or more")));
  EXPECT_EQ(backend.allocated, 0);
}

TEST(BackendChecksTest, ArenasThatDidNotFitMayBeTriedAgainAndThoseThatDidMayNot) {
  CountingBackend backend;
  backend.full = true;
  EXPECT_THAT(backend.Allocate(InputOf(kBytes)), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(backend.Prepare(FillOf(1)), StatusIs(absl::StatusCode::kInvalidArgument));
  backend.full = false;
  EXPECT_THAT(backend.Allocate(InputOf(kBytes)), IsOk());
  EXPECT_THAT(backend.Allocate(InputOf(kBytes)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("want once")));
  EXPECT_EQ(backend.allocated, 2);
}

TEST(BackendChecksTest, ProgramThatReachesOutOfItsArenaIsNotBound) {
  CountingBackend backend;
  ASSERT_THAT(backend.Allocate(InputOf(kBytes)), IsOk());
  EXPECT_THAT(backend.Prepare(FillOf(kBytes / 4 + 1)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the size of the arena")));
  EXPECT_EQ(backend.prepared, 0);
  EXPECT_THAT(backend.Prepare(FillOf(kBytes / 4)), IsOk());
  EXPECT_EQ(backend.prepared, 1);
}

TEST(BackendChecksTest, CopiesThatDoNotFitAreRefusedBeforeTheDevice) {
  CountingBackend backend;
  std::vector<std::byte> host(kBytes);
  EXPECT_THAT(backend.Write(View(kBytes), host),  // nothing is allocated yet
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("outside its arena of 0")));
  ASSERT_THAT(backend.Allocate(InputOf(kBytes)), IsOk());
  EXPECT_THAT(backend.Write(View(kBytes - 1), host),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the host gave 256")));
  EXPECT_THAT(backend.Read(View(kBytes + 1), absl::MakeSpan(host)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("outside its arena of 256")));
  EXPECT_EQ(backend.written + backend.read, 0);
  EXPECT_THAT(backend.Write(View(kBytes), host), IsOk());
  EXPECT_THAT(backend.Read(View(kBytes), absl::MakeSpan(host)), IsOk());
  EXPECT_EQ(backend.written, 1);
  EXPECT_EQ(backend.read, 1);
}

TEST(BackendChecksTest, BackendsWithoutADeviceHaveNoBytesOnOne) {
  CountingBackend backend;
  ASSERT_THAT(backend.Allocate(InputOf(kBytes)), IsOk());
  EXPECT_TRUE(backend.DeviceBytes(Arena::kInput).empty());
}

}  // namespace
}  // namespace vitscale
