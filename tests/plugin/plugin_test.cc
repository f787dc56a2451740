#include <cstdlib>
#include <fstream>
#include <string>

#include "kernels/backend_factory.h"
#include "kernels/communicator.h"
#include "kernels/plugin_loader.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(PluginTest, PluginOfAnotherBuildIsRefusedWithBothTags) {
  EXPECT_THAT(LoadPluginAt(VITSCALE_FAKE_PLUGIN),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("of another build (revision of-old)"),
                             HasSubstr("want revision "), HasSubstr("interface "))));
}

TEST(PluginTest, LibraryThatIsNoPluginIsRefused) {
  EXPECT_THAT(LoadPluginAt(VITSCALE_NO_PLUGIN),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("has no vitscale_plugin")));
}

TEST(PluginTest, MissingFileIsNamed) {
  EXPECT_THAT(LoadPluginAt("/nowhere/libvitscale_cuda.so"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("plugin /nowhere/libvitscale_cuda.so")));
  EXPECT_THAT(LoadPlugin("libvitscale_nothing.so"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("libvitscale_nothing.so: not found"), HasSubstr("/lib/"))));
}

TEST(PluginTest, PluginIsFoundInTheFolderOfTheEnvironment) {
  const std::string path = VITSCALE_FAKE_PLUGIN;
  const size_t slash = path.rfind('/');
  ASSERT_EQ(setenv("VITSCALE_PLUGIN_DIR", path.substr(0, slash).c_str(), 1), 0);
  EXPECT_THAT(LoadPlugin(path.substr(slash + 1)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("of another build")));
  unsetenv("VITSCALE_PLUGIN_DIR");
}

bool ProcessHas(const std::string& library) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(library) != std::string::npos) return true;
  }
  return false;
}

// In a process of its own: other tests of this one open the plugin.
TEST(PluginTest, CpuBackendBringsNoCudaIntoTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run_on_cpu = [] {
    const auto backend = CreateBackend({.device = "cpu", .threads = 1});
    const bool cuda = ProcessHas("libvitscale_cuda") || ProcessHas("libcudart");
    std::exit(backend.ok() && !cuda ? 0 : 1);
  };
  EXPECT_EXIT(run_on_cpu(), testing::ExitedWithCode(0), "");
}

TEST(PluginTest, OnlyCudaDevicesHaveCommunicators) {
  EXPECT_THAT(CreateCommunicator({.device = "cpu", .on_abort_hung = [] { std::abort(); }}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("device is 'cpu', want cuda:<index>")));
}

#ifdef VITSCALE_CUDA_PLUGIN
TEST(PluginTest, CudaPluginIsOfThisBuild) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const PluginApi* api, LoadPluginAt(VITSCALE_CUDA_PLUGIN));
  ASSERT_NE(api->create_backend, nullptr);
  EXPECT_THAT(api->create_backend({.device = "cuda:first"}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("device is 'cuda:first', want cuda:<index>")));
}

// On a machine with a device it is created; elsewhere one line says what is missing.
TEST(PluginTest, WithoutADeviceOneLineSaysSo) {
  const auto backend = CreateBackend({.device = "cuda:0"});
  if (backend.ok()) {
    EXPECT_EQ((*backend)->info().name, "cuda");
    return;
  }
  EXPECT_THAT(backend, StatusIs(absl::StatusCode::kFailedPrecondition,
                                AllOf(HasSubstr("no CUDA device: "), Not(HasSubstr("\n")))));
}

// NCCL is opened only now: a program whose job has one GPU, or none, does not have it.
TEST(PluginTest, CommunicatorWithoutNcclOrADeviceIsRefusedInOneLine) {
  EXPECT_THAT(CreateCommunicator({.device = "cuda:4711", .on_abort_hung = [] { std::abort(); }}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(AnyOf(HasSubstr("no CUDA device: "), HasSubstr("NCCL")),
                             Not(HasSubstr("\n")))));
}

TEST(PluginTest, CudaBackendAloneBringsNoNcclIntoTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto open = [] {
    const auto backend = CreateBackend({.device = "cuda:0"});
    std::exit(ProcessHas("libvitscale_cuda") && !ProcessHas("libnccl") ? 0 : 1);
  };
  EXPECT_EXIT(open(), testing::ExitedWithCode(0), "");
}

TEST(PluginTest, OtherBackendsHaveNoMemoryOfADevice) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto backend, CreateBackend({.device = "cpu", .threads = 1}));
  EXPECT_TRUE(backend->DeviceBytes(Arena::kGradients).empty());
}

TEST(PluginTest, DeviceThatIsNotThereIsRefused) {
  EXPECT_THAT(CreateBackend({.device = "cuda:4711"}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no CUDA device: ")));
}
#endif

}  // namespace
}  // namespace vitscale
