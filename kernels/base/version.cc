#include "kernels/base/version.h"

#include "absl/strings/str_cat.h"

namespace vitscale {

const char* Revision() { return VITSCALE_REVISION; }

std::string VersionText() { return absl::StrCat(kVersion, " (", Revision(), ")"); }

}  // namespace vitscale
