#include "kernels/backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale {

absl::Status Backend::Allocate(const ArenaBytes& bytes) {
  if (allocated_) return absl::FailedPreconditionError("arenas are allocated already, want once");
  for (int i = 0; i < kArenaCount; ++i) {
    if (bytes[i] >= 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(ArenaName(static_cast<Arena>(i)), ": ", bytes[i], " bytes, want 0 or more"));
  }
  VITSCALE_RETURN_IF_ERROR(DoAllocate(bytes));
  arena_bytes_ = bytes;
  allocated_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PreparedProgram>> Backend::Prepare(Program program) {
  VITSCALE_RETURN_IF_ERROR(CheckProgram(program));
  VITSCALE_RETURN_IF_ERROR(CheckBounds(program, arena_bytes_));
  return DoPrepare(std::move(program));
}

absl::Status Backend::Write(const TensorView& to, absl::Span<const std::byte> from) {
  VITSCALE_RETURN_IF_ERROR(CheckHostCopy(to, arena_bytes_, from.size()));
  return from.empty() ? absl::OkStatus() : DoWrite(to, from);
}

absl::Status Backend::Read(const TensorView& from, absl::Span<std::byte> to) {
  VITSCALE_RETURN_IF_ERROR(CheckHostCopy(from, arena_bytes_, to.size()));
  return to.empty() ? absl::OkStatus() : DoRead(from, to);
}

}  // namespace vitscale
