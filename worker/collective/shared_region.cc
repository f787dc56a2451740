#include "worker/collective/shared_region.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr uint64_t kMagic = 0x31306d6873637376;  // "vscshm01"
constexpr int64_t kHeadBytes = 128;
constexpr int64_t kPage = 4096;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// At the start of the memory; written once, before anybody else has it.
struct Head {
  uint64_t magic = kMagic;
  uint64_t nonce = 0;
  int64_t world_size = 0;
  int64_t chunk_bytes = 0;
  bool operator==(const Head&) const = default;
};
static_assert(sizeof(Head) <= kHeadBytes);

Head HeadOf(const SharedShape& shape) {
  return {kMagic, shape.nonce, shape.world_size, shape.chunk_bytes};
}

int64_t ControlBytes(const SharedShape& shape) {
  const int64_t bytes = kHeadBytes + shape.world_size * static_cast<int64_t>(sizeof(RankBlock));
  return (bytes + kPage - 1) / kPage * kPage;
}

int64_t TotalBytes(const SharedShape& shape) {
  return ControlBytes(shape) + shape.world_size * kSharedDepth * shape.chunk_bytes;
}

absl::Status CheckShape(const SharedShape& shape) {
  if (shape.world_size >= 2 && shape.world_size <= kSharedRanksMax && shape.chunk_bytes >= kPage &&
      shape.chunk_bytes <= (64 << 20) && shape.chunk_bytes % kPage == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("shared memory: ", shape.world_size, " ranks with chunks of ", shape.chunk_bytes,
                   " bytes, want 2 to ", kSharedRanksMax, " and whole pages"));
}

}  // namespace

absl::StatusOr<UniqueFd> SharedRegion::CreateMemory(const SharedShape& shape) {
  VITSCALE_RETURN_IF_ERROR(CheckShape(shape));
  UniqueFd memory(memfd_create("vitscale-collective", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid()) return ErrnoStatus(errno, "shared memory: memfd_create");
  const int64_t bytes = TotalBytes(shape);
  if (const int error = posix_fallocate(memory.get(), 0, bytes); error != 0) {
    return ErrnoStatus(error, absl::StrCat("shared memory: ", bytes, " bytes"));
  }
  const Head head = HeadOf(shape);
  if (pwrite(memory.get(), &head, sizeof(head), 0) != sizeof(head)) {
    return ErrnoStatus(errno, "shared memory: head");
  }
  if (fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) {
    return ErrnoStatus(errno, "shared memory: seal");
  }
  return memory;
}

absl::StatusOr<std::unique_ptr<SharedRegion>> SharedRegion::Map(int memory,
                                                                const SharedShape& shape) {
  VITSCALE_RETURN_IF_ERROR(CheckShape(shape));
  const auto refuse = [](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat("shared memory: ", why));
  };
  const int seals = fcntl(memory, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) return refuse("its size is not sealed");
  struct stat about {};
  if (fstat(memory, &about) != 0) return ErrnoStatus(errno, "shared memory: fstat");
  if (about.st_size != TotalBytes(shape)) {
    return refuse(absl::StrCat("has ", about.st_size, " bytes, want ", TotalBytes(shape)));
  }
  Head head;
  if (pread(memory, &head, sizeof(head), 0) != sizeof(head) || head != HeadOf(shape)) {
    return refuse("is not that of this generation");
  }
  void* const base =
      mmap(nullptr, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, 0);
  if (base == MAP_FAILED) return ErrnoStatus(errno, "shared memory: mmap");
  return std::unique_ptr<SharedRegion>(new SharedRegion(shape, static_cast<std::byte*>(base)));
}

SharedRegion::SharedRegion(const SharedShape& shape, std::byte* base)
    : shape_(shape),
      base_(base),
      blocks_(reinterpret_cast<RankBlock*>(base + kHeadBytes)),  // zeros are its initial state
      chunks_(base + ControlBytes(shape)) {}

SharedRegion::~SharedRegion() { (void)munmap(base_, TotalBytes(shape_)); }

}  // namespace vitscale
