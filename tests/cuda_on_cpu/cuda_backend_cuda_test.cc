// The CUDA backend itself: memory, host copies, markers, and what it says when it cannot.

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"
#ifdef VITSCALE_CUDA_ON_CPU
#include "tests/cuda_on_cpu/device.h"
#endif

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::unique_ptr<Backend> MakeBackend() {
  auto backend = cuda::CreateCudaBackend({.device = "cuda:0"});
  EXPECT_THAT(backend, IsOk());
  return backend.ok() ? *std::move(backend) : nullptr;
}
ArenaBytes Bytes(Arena arena, int64_t bytes) {
  ArenaBytes all{};
  all[static_cast<int>(arena)] = bytes;
  return all;
}
TensorView View(const char* name, Arena arena, int64_t offset, DType dtype, Shape shape) {
  return {name, arena, offset, dtype, std::move(shape)};
}

// y [2, 8] = x [2, 8] W: the smallest program that launches something.
struct SmallLinear {
  TensorView w = View("w", Arena::kParameters, 0, DType::kF32, {8, 8});
  TensorView x = View("x", Arena::kActivations, 0, DType::kF32, {2, 8});
  TensorView y = View("y", Arena::kActivations, 64, DType::kF32, {2, 8});
  ArenaBytes bytes() const {
    ArenaBytes all{};
    all[static_cast<int>(Arena::kParameters)] = w.bytes();
    all[static_cast<int>(Arena::kActivations)] = 64 + y.bytes();
    return all;
  }
  LinearArgs args() const {
    LinearArgs args;
    args.x = x;
    args.weight = {w};
    args.y = y;
    return args;
  }
};

TEST(CudaBackendTest, SaysWhatItRunsOn) {
  const auto backend = MakeBackend();
  const BackendInfo info = backend->info();
  EXPECT_EQ(info.name, "cuda");
  EXPECT_THAT(info.device, StartsWith("NVIDIA"));
  EXPECT_THAT(info.instruction_set, StartsWith("sm_"));
  EXPECT_THAT(info.libraries, AllOf(HasSubstr("CUDA 1"), HasSubstr("cuBLASLt 1")));
  EXPECT_TRUE(info.bf16_matmul);
  EXPECT_TRUE(backend->HostBytes(Arena::kParameters).empty());
}

TEST(CudaBackendTest, ArenasBeginAsZeroAndAreAllocatedOnce) {
  const auto backend = MakeBackend();
  const ArenaBytes bytes = Bytes(Arena::kGradients, 4096);
  ASSERT_THAT(backend->Allocate(bytes), IsOk());
  std::vector<std::byte> read(4096, std::byte{1});
  ASSERT_THAT(
      backend->Read(View("g", Arena::kGradients, 0, DType::kU8, {4096}), absl::MakeSpan(read)),
      IsOk());
  EXPECT_EQ(read, std::vector<std::byte>(4096));
  EXPECT_THAT(backend->Allocate(bytes), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(CudaBackendTest, ArenasLieInMemoryOfTheDeviceAlone) {
  const auto backend = MakeBackend();
  EXPECT_TRUE(backend->DeviceBytes(Arena::kGradients).empty());
  ASSERT_THAT(backend->Allocate(Bytes(Arena::kGradients, 4096)), IsOk());
  EXPECT_EQ(backend->DeviceBytes(Arena::kGradients).size(), 4096u);
  EXPECT_TRUE(backend->HostBytes(Arena::kGradients).empty());
  EXPECT_TRUE(backend->DeviceBytes(Arena::kParameters).empty());
}

// Several times what is staged at once, and a tail.
TEST(CudaBackendTest, LargeTensorsArriveUnchanged) {
  constexpr int64_t kBytes = (int64_t{13} << 20) + 5;
  const auto backend = MakeBackend();
  ASSERT_THAT(backend->Allocate(Bytes(Arena::kInput, kBytes + 64)), IsOk());
  const TensorView view = View("images", Arena::kInput, 64, DType::kU8, {kBytes});
  std::vector<std::byte> wrote(kBytes), read(kBytes);
  for (size_t i = 0; i < wrote.size(); ++i)
    wrote[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  std::vector<std::byte> given = wrote;
  ASSERT_THAT(backend->Write(view, given), IsOk());
  std::fill(given.begin(), given.end(),
            std::byte{0});  // the caller's again once Write has returned
  ASSERT_THAT(backend->Read(view, absl::MakeSpan(read)), IsOk());
  EXPECT_TRUE(read == wrote);
}

TEST(CudaBackendTest, HostCopiesOutsideOfTheArenaAreRefused) {
  const auto backend = MakeBackend();
  ASSERT_THAT(backend->Allocate(Bytes(Arena::kInput, 64)), IsOk());
  std::vector<std::byte> bytes(65);
  EXPECT_THAT(backend->Write(View("labels", Arena::kInput, 0, DType::kU8, {65}), bytes),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("labels"), HasSubstr("outside its arena of 64 bytes"))));
  EXPECT_THAT(
      backend->Read(View("labels", Arena::kInput, 0, DType::kU8, {64}), absl::MakeSpan(bytes)),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the host gave 65")));
}

class Recorder : public MarkerSink {
 public:
  void OnGradientsReady(int bucket) override { told.push_back(absl::StrCat("bucket ", bucket)); }
  void OnPhase(const std::string& name) override { told.push_back(name); }
  std::vector<std::string> told;
};

TEST(CudaBackendTest, MarkersAreToldOnceInProgramOrder) {
  const SmallLinear linear;
  const auto backend = MakeBackend();
  ASSERT_THAT(backend->Allocate(linear.bytes()), IsOk());
  Program program;
  program.Add(PhaseArgs{"forward"});
  program.Add(linear.args());
  program.Add(PhaseArgs{"backward"});
  program.Add(GradientsReadyArgs{1});
  program.Add(linear.args());
  program.Add(GradientsReadyArgs{0});
  VITSCALE_ASSERT_OK_AND_ASSIGN(auto prepared, backend->Prepare(std::move(program)));
  for (int run = 0; run < 2; ++run) {
    Recorder recorder;
    ASSERT_THAT(backend->Run(*prepared, {}, &recorder), IsOk());
    EXPECT_THAT(recorder.told, ElementsAre("forward", "backward", "bucket 1", "bucket 0"));
  }
  EXPECT_THAT(prepared->variants(),
              ElementsAre("op 1 Linear: product, fused", "op 4 Linear: product, fused"));
}

TEST(CudaBackendTest, DeviceNamesThatMeanNothingAreRefused) {
  for (const char* device : {"cuda:", "cuda:-1", "cuda:x", "cuda"}) {
    EXPECT_THAT(cuda::CreateCudaBackend({.device = device}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(absl::StrCat("device is '", device, "'"))));
  }
}

#ifdef VITSCALE_CUDA_ON_CPU
TEST(CudaBackendTest, DeviceThatIsNotThereIsNamed) {
  EXPECT_THAT(cuda::CreateCudaBackend({.device = "cuda:3"}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("no CUDA device: device is cuda:3, this machine has 1")));
}

TEST(CudaBackendTest, ATrainerTakesNoOtherCardThanItsWorkers) {
  const std::string here = "GPU-00000000-0000-0000-0000-000000000000";
  const std::string other = "GPU-a1b2c3d4-0000-0000-0000-000000000007";
  setenv("VITSCALE_CARD_UUID", here.c_str(), 1);
  EXPECT_THAT(cuda::CreateCudaBackend({.device = "cuda:0"}), IsOk());
  setenv("VITSCALE_CARD_UUID", other.c_str(), 1);
  EXPECT_THAT(cuda::CreateCudaBackend({.device = "cuda:0"}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("cuda:0 is the card " + here + ", this worker has " + other)));
  unsetenv("VITSCALE_CARD_UUID");
}

TEST(CudaBackendTest, OutOfMemoryNamesArenaBytesAndWhatIsFree) {
  cuda_on_cpu::SetDeviceMemory(int64_t{1} << 30);
  const auto backend = MakeBackend();
  EXPECT_THAT(backend->Allocate(Bytes(Arena::kActivations, int64_t{3} << 30)),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("activations: want 3221225472 bytes (3.00 GiB)"),
                             HasSubstr("of 1.00 GiB are free"))));
  cuda_on_cpu::SetDeviceMemory(int64_t{80} << 30);
  EXPECT_THAT(backend->Allocate(Bytes(Arena::kActivations, 4096)), IsOk());  // nothing was kept
}

// Whatever allocation fails, Prepare says so and a second try works.
TEST(CudaBackendTest, PrepareSurvivesEveryFailedAllocation) {
  const SmallLinear linear;
  const auto backend = MakeBackend();
  ASSERT_THAT(backend->Allocate(linear.bytes()), IsOk());
  Program program;
  LinearArgs args = linear.args();
  args.weight = {View("w0", Arena::kParameters, 0, DType::kF32, {8, 4}),
                 View("w1", Arena::kParameters, 128, DType::kF32, {8, 4})};
  program.Add(args);
  program.Add(PrepareWeightsArgs{{args.weight}});
  int failed = 0;
  for (;; ++failed) {
    ASSERT_LT(failed, 20);
    cuda_on_cpu::FailAllocation(failed + 1);
    const auto prepared = backend->Prepare(program);
    cuda_on_cpu::FailAllocation(0);
    if (prepared.ok()) {
      EXPECT_THAT(backend->Run(**prepared, {}, nullptr), IsOk());
      break;
    }
    EXPECT_THAT(prepared, StatusIs(absl::StatusCode::kResourceExhausted));
  }
  EXPECT_GT(failed, 0);
}

TEST(CudaBackendTest, NothingIsAllocatedAfterPrepareAndEverythingIsFreed) {
  const int64_t live = cuda_on_cpu::Counts().live;
  {
    const SmallLinear linear;
    const auto backend = MakeBackend();
    ASSERT_THAT(backend->Allocate(linear.bytes()), IsOk());
    Program program;
    program.Add(linear.args());
    program.Add(PrepareWeightsArgs{{{linear.w}}});
    VITSCALE_ASSERT_OK_AND_ASSIGN(auto prepared, backend->Prepare(std::move(program)));
    const int64_t allocations = cuda_on_cpu::Counts().allocations;
    std::vector<std::byte> bytes(linear.x.bytes());
    for (int run = 0; run < 3; ++run) {
      ASSERT_THAT(backend->Write(linear.x, bytes), IsOk());
      ASSERT_THAT(backend->Run(*prepared, {}, nullptr), IsOk());
      ASSERT_THAT(backend->Read(linear.y, absl::MakeSpan(bytes)), IsOk());
    }
    EXPECT_EQ(cuda_on_cpu::Counts().allocations, allocations);
  }
  EXPECT_EQ(cuda_on_cpu::Counts().live, live);
}

// Every call comes from a new thread, whose device is 0. The stand-in refuses launches into streams
// of another device, and faults where memory of another device is freed.
TEST(CudaBackendTest, ThreadsThatUseAnotherDeviceMayDriveAndDestroyIt) {
  cuda_on_cpu::SetDeviceCount(2);
  const int64_t live = cuda_on_cpu::Counts().live;
  const auto elsewhere = [](const auto& call) { std::thread(call).join(); };
  const SmallLinear linear;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<PreparedProgram> prepared;
  elsewhere([&] { backend = cuda::CreateCudaBackend({.device = "cuda:1"}).value(); });
  elsewhere([&] { ASSERT_THAT(backend->Allocate(linear.bytes()), IsOk()); });
  elsewhere([&] {
    Program program;
    program.Add(linear.args());
    program.Add(PrepareWeightsArgs{{{linear.w}}});
    prepared = backend->Prepare(std::move(program)).value();
  });
  std::vector<std::byte> bytes(linear.x.bytes());
  elsewhere([&] { EXPECT_THAT(backend->Write(linear.x, bytes), IsOk()); });
  elsewhere([&] { EXPECT_THAT(backend->Run(*prepared, {}, nullptr), IsOk()); });
  elsewhere([&] { EXPECT_THAT(backend->Read(linear.y, absl::MakeSpan(bytes)), IsOk()); });
  elsewhere([&] { prepared = nullptr; });
  elsewhere([&] { backend = nullptr; });
  EXPECT_EQ(cuda_on_cpu::Counts().live, live);
  cuda_on_cpu::SetDeviceCount(1);
}
#endif

}  // namespace
}  // namespace vitscale
