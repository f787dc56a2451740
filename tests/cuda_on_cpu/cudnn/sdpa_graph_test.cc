// Whether cuDNN takes our graph of attention, from the properties of a device that is not here.
//
// cuDNN wants a driver's library in the process before it offers anything. Where there is none, the
// one to link with, which comes with CUDA, does: its functions only fail, and none is needed to
// offer a plan. Making the plan ready needs a driver.

#include "kernels/cuda/cudnn/sdpa_graph.h"

#include <dlfcn.h>

#include <string>

#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using ::testing::HasSubstr;

// As cuDNN writes the properties of a device: what compute capability, multiprocessors and shared
// memory of a block are is the card's, the rest the same for all of them.
std::string Properties(int sm, int multiprocessors, int shared_bytes) {
  return absl::StrFormat(
      R"({"deviceVer":%d,"deviceName":"card","multiProcessorCount":%d,)"
      R"("maxSharedMemoryPerBlockOptin":%d,"maxSharedMemoryPerBlock":49152,)"
      R"("reservedSharedMemoryPerBlock":1024,"maxGridSize":[2147483647,65535,65535],)"
      R"("maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"maxRegistersPerSM":65536,)"
      R"("warpSize":32,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,)"
      R"("pciDeviceId":0,"cudaDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,)"
      R"("smClockRateKHz":1755000,"memClockRateKHz":2619000,"l2CacheSize":52428800,)"
      R"("totalGlobalMem":85899345920,"driverVer":13000,"cudaVer":13000})",
      sm * 10, multiprocessors, shared_bytes);
}
const std::string kA100 = Properties(80, 108, 166912), kH100 = Properties(90, 132, 232448);

bool HasDriverLibrary() {
  return dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) != nullptr ||
         dlopen(VITSCALE_CUDA_LIBRARIES "/stubs/libcuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr;
}

class SdpaGraphTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<CudnnLibrary> library = LoadCudnn();
    if (!library.ok()) library = LoadCudnn(VITSCALE_CUDA_LIBRARIES "/libcudnn.so.9");
    if (!library.ok()) GTEST_SKIP() << library.status().message();
    if (!HasDriverLibrary()) GTEST_SKIP() << "no libcuda to link with beside CUDA's libraries";
    library_ = *library;
  }
  absl::StatusOr<SdpaGraph> Graph(const std::string& device, const AttentionSize& size) {
    absl::StatusOr<SdpaTarget> target = TargetOfProperties(library_, device);
    if (!target.ok()) return target.status();
    return SdpaGraph::Create(library_, size, *target);
  }
  CudnnLibrary library_;
};

// Every head dim of our kernels, and the token counts of the model family.
TEST_F(SdpaGraphTest, EveryShapeThatOurKernelsTakeIsOfferedAPlan) {
  for (const std::string& device : {kA100, kH100}) {
    for (const int64_t tokens : {1, 64, 196, 197, 257}) {
      for (int64_t head_dim = 8; head_dim <= 128; head_dim += 8) {
        const auto graph = Graph(device, {4, tokens, 2, head_dim});
        ASSERT_THAT(graph, IsOk()) << device << tokens << " tokens, head dim " << head_dim;
        EXPECT_GE(graph->candidates().size(), 1u);
      }
    }
  }
}

TEST_F(SdpaGraphTest, LargeBatchesAreOfferedAPlan) {
  EXPECT_THAT(Graph(kH100, {1024, 196, 12, 64}), IsOk());
  EXPECT_THAT(Graph(kH100, {512, 257, 16, 88}), IsOk());
}

TEST_F(SdpaGraphTest, AHeadDimThatNoEngineTakesIsRefusedInWords) {
  EXPECT_THAT(Graph(kH100, {2, 64, 1, 12}),
              StatusIs(absl::StatusCode::kUnimplemented, "cuDNN has no way to run this attention"));
}

TEST_F(SdpaGraphTest, PropertiesThatLackSomethingAreRefused) {
  EXPECT_THAT(TargetOfProperties(library_, R"({"deviceVer":900})"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("take the properties of a device")));
}

// One with a driver's library that only fails: whatever is offered, nothing can be made ready, and
// that is an error with the library's words, not a plan.
TEST_F(SdpaGraphTest, APlanThatTheDriverDoesNotLoadIsAnError) {
  if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) != nullptr &&
      dlsym(RTLD_DEFAULT, "cuInit") != nullptr &&
      reinterpret_cast<int (*)(unsigned)>(dlsym(RTLD_DEFAULT, "cuInit"))(0) == 0) {
    GTEST_SKIP() << "there is a driver";
  }
  VITSCALE_ASSERT_OK_AND_ASSIGN(const SdpaTarget target, TargetOfProperties(library_, kH100));
  EXPECT_THAT(SdpaPlan::Create(library_, {2, 64, 2, 64}, target, int64_t{1} << 28),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("plan attention: ")));
}

}  // namespace
}  // namespace vitscale::cuda
