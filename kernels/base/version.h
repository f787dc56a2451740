// Which vitscale this is.

#ifndef KERNELS_BASE_VERSION_H_
#define KERNELS_BASE_VERSION_H_

#include <string>

namespace vitscale {

inline constexpr char kVersion[] = "0.1.0";

// Abbreviated git revision when this tree was configured, "unknown" outside git.
const char* Revision();

// "0.1.0 (3f2a91c)"
std::string VersionText();

}  // namespace vitscale

#endif  // KERNELS_BASE_VERSION_H_
