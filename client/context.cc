#include "client/context.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/defaults.h"

namespace vitscale {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(30);

}  // namespace

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:
      return kExitUsage;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kUnavailable:
      return kExitUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitTimedOut;
    default:
      return kExitFailed;
  }
}

int ExitCodeOf(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_SUCCEEDED:
      return kExitOk;
    case v1::JOB_STATE_CANCELLED:
      return kExitCancelled;
    default:
      return kExitFailed;
  }
}

std::string Context::ChooseAddress() const {
  if (!address.empty()) return address;
  if (const std::string given = environment ? environment("VITSCALE_ADDRESS") : "";
      !given.empty()) {
    return given;
  }
  const std::string socket = DefaultSocketPath();
  std::error_code ignored;
  if (std::filesystem::exists(socket, ignored)) return absl::StrCat("unix:", socket);
  return absl::StrCat("127.0.0.1:", kDefaultGrpcPort);
}

absl::StatusOr<std::unique_ptr<ControlClient>> Context::Connect() const {
  return connect(ChooseAddress(), timeout > absl::ZeroDuration() ? timeout : kCallTimeout);
}

absl::Time Context::WaitDeadline() const {
  return timeout > absl::ZeroDuration() ? clock.Monotonic() + timeout : absl::InfiniteFuture();
}

std::string Context::RequestId() const {
  const uint64_t a = random.Next(), b = random.Next();
  return absl::StrFormat("%08x-%04x-4%03x-%04x-%012x", a >> 32, (a >> 16) & 0xffff, a & 0xfff,
                         0x8000 | ((b >> 48) & 0x3fff), b & 0xffffffffffff);
}

}  // namespace vitscale
