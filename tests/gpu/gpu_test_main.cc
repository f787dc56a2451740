// The main of every test that runs on a real device: without one it says why and leaves with 77,
// which CTest counts as skipped. VITSCALE_GPU_REQUIRED=1, set where a device is known to be, makes
// that a failure.
//
// Attention is our own here (VITSCALE_CUDNN=off) unless a test asks for cuDNN's: what the tests of
// a variant run must not depend on which of them is faster.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "gmock/gmock.h"
#include "kernels/backend_factory.h"

namespace {

constexpr int kSkipped = 77;

int WithoutDevice(const absl::Status& status) {
  const char* required = std::getenv("VITSCALE_GPU_REQUIRED");
  const bool failed = required != nullptr && std::string(required) == "1";
  std::printf("%s: %s\n", failed ? "FAILED" : "SKIPPED", std::string(status.message()).c_str());
  return failed ? 1 : kSkipped;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  setenv("VITSCALE_CUDNN", "off", /*overwrite=*/0);
  testing::InitGoogleMock(&argc, argv);
  if (!GTEST_FLAG_GET(list_tests)) {
    vitscale::BackendOptions options;
    options.device = "cuda:0";
    const auto backend = vitscale::CreateBackend(options);
    if (!backend.ok()) return WithoutDevice(backend.status());
    std::printf("device: %s\n", (*backend)->info().device.c_str());
  }
  return RUN_ALL_TESTS();
}
