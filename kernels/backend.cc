#include "kernels/backend.h"

#include <utility>

#include "kernels/base/status.h"

namespace vitscale {

absl::StatusOr<std::unique_ptr<PreparedProgram>> Backend::Prepare(Program program) {
  VITSCALE_RETURN_IF_ERROR(CheckProgram(program));
  return DoPrepare(std::move(program));
}

}  // namespace vitscale
