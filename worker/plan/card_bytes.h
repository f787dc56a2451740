// What a CUDA backend holds on its card besides the arenas, from the ops of its programs alone:
// one rounded copy of each weight, partial sums and scratch. Figures of kernels/cuda, which a test
// there compares with what the backend came to hold (Backend::memory).

#ifndef WORKER_PLAN_CARD_BYTES_H_
#define WORKER_PLAN_CARD_BYTES_H_

#include <cstdint>

#include "kernels/program.h"
#include "worker/plan/plan.h"

namespace vitscale {

// What a process takes of a card before it has allocated anything: context, code of kernels and of
// cuBLASLt, and its 32 MiB of workspace. An H200 in use by five models said 0.60 to 0.61 GB
// (tests/gpu/results, 2026-11-26: bytes in use without arenas, copies and workspaces).
inline constexpr int64_t kCardContextBytes = int64_t{580} << 20;

// What the same process holds of the host's memory: CUDA's libraries and tables (0.56 to 0.65 GB
// resident in those runs), and two pinned buffers for copies.
inline constexpr int64_t kCudaProcessBytes = int64_t{616} << 20;
inline constexpr int64_t kPinnedStagingBytes = int64_t{8} << 20;

// The copies that matmuls of `program` read, as cudaMalloc hands them out.
int64_t CardWeightBytes(const Program& program);

// What a backend reserves for `program` while it prepares it, scratch included.
int64_t CardWorkspaceBytes(const Program& program);

}  // namespace vitscale

#endif  // WORKER_PLAN_CARD_BYTES_H_
