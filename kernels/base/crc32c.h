// CRC32C (Castagnoli; RFC 3720 appendix B.4) of bytes that may arrive in pieces. SSE4.2 where the CPU has it.

#ifndef KERNELS_BASE_CRC32C_H_
#define KERNELS_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace vitscale {

// The CRC of (bytes that gave `crc`) followed by these; start with 0. Crc32c("123456789") is 0xe3069283.
uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t bytes);
inline uint32_t Crc32c(absl::string_view bytes) { return ExtendCrc32c(0, bytes.data(), bytes.size()); }

namespace internal {
uint32_t ExtendCrc32cPortable(uint32_t crc, const void* data, size_t bytes);
}  // namespace internal

}  // namespace vitscale

#endif  // KERNELS_BASE_CRC32C_H_
