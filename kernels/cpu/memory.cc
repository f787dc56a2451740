#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace vitscale::cpu {

absl::StatusOr<Memory> Memory::Allocate(int64_t bytes, absl::string_view what) {
  if (bytes == 0) return Memory();
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": ", bytes, " bytes: ", std::strerror(errno)));
  }
  // Fewer page walks where the system has huge pages to give; nothing depends on it.
  (void)madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return Memory(static_cast<std::byte*>(data), bytes);
}

Memory::~Memory() {
  if (data_ != nullptr) (void)munmap(data_, static_cast<size_t>(bytes_));
}

}  // namespace vitscale::cpu
