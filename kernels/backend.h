// A device that runs programs. There are two: kernels/cpu (reference and embedded default) and
// kernels/cuda.
//
// Life: Create (backend_factory.h) -> Allocate once -> Prepare each program once -> Run many times.
// A backend is driven by one thread at a time. Errors: INVALID_ARGUMENT from Prepare names op,
// operand, what it was and what was wanted, and nothing is changed; RESOURCE_EXHAUSTED from
// Allocate; INTERNAL from Run.

#ifndef KERNELS_BACKEND_H_
#define KERNELS_BACKEND_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/program.h"

namespace vitscale {

using ArenaBytes = std::array<int64_t, kArenaCount>;

// What changes from step to step; everything else is fixed when a program is prepared.
struct StepScalars {
  int64_t step = 0;             // optimizer count before the update: 0 on the first step
  double schedule = 1.0;        // s(k), multiplies learning rate and weight decay
  double beta2 = 0.0;           // Adafactor: min(cap, 1 - (step + 1)^-0.8)
  float gradient_scale = 1.0f;  // 1 / batch_global
  int apply = 1;                // the gate: 0 leaves parameters, moments and averages untouched
};

// Told, in program order and from the thread that called Run, what the program has reached. Must
// not block.
class MarkerSink {
 public:
  virtual ~MarkerSink() = default;
  virtual void OnGradientsReady(int bucket) = 0;
  virtual void OnPhase(const std::string& name) = 0;
};

// A program bound to one backend: shapes checked, workspaces assigned, variants chosen.
class PreparedProgram {
 public:
  virtual ~PreparedProgram() = default;
  // One line per op where a backend has several ways to run it: "op 3 Linear: bias, fused". For
  // people and tests.
  virtual std::vector<std::string> variants() const { return {}; }
  // A hash of what was chosen by measuring and decides bits, and of the kind of device: the same
  // number, the same bits. 0: nothing was.
  virtual uint64_t choices() const { return 0; }
};

struct BackendInfo {
  std::string name;             // "cpu"
  std::string device;           // "AMD EPYC …", for people
  std::string instruction_set;  // "avx2", "avx512", "avx512_bf16"; "sm_90"
  bool bf16_matmul = false;     // multiplied in hardware
  int threads = 0;
  std::string libraries;  // "oneDNN 2.6.3": part of the numeric class
  // Of the device's own memory, in use now by everybody; 0: the host's memory is used.
  int64_t memory_bytes = 0;
};

// Bytes.
struct BackendMemory {
  int64_t compute_weights = 0;  // copies of weights for matmuls
  int64_t workspace = 0;        // scratch and partial sums
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual BackendInfo info() const = 0;

  // Gives every arena its memory, zero-filled. Once: FAILED_PRECONDITION after that.
  // INVALID_ARGUMENT for a negative size. After an error nothing is held, and it may be called
  // again.
  absl::Status Allocate(const ArenaBytes& bytes);

  // Checks every op (CheckProgram, CheckBounds) and then binds the program to this backend.
  absl::StatusOr<std::unique_ptr<PreparedProgram>> Prepare(Program program);

  // Runs to the end. `sink` may be null.
  virtual absl::Status Run(PreparedProgram& program, const StepScalars& scalars,
                           MarkerSink* sink) = 0;

  // Host access to arena memory; sizes in bytes must be equal. Ordered after everything that was
  // run. INVALID_ARGUMENT: CheckHostCopy.
  absl::Status Write(const TensorView& to, absl::Span<const std::byte> from);
  absl::Status Read(const TensorView& from, absl::Span<std::byte> to);

  // The bytes of a whole arena or a part of it where the host can address them (always on the CPU),
  // else empty. For collectives, checkpoints and synchronisation.
  virtual absl::Span<std::byte> HostBytes(Arena arena) = 0;

  // Where a whole arena lies in the memory of the device, for communicators (communicator.h):
  // addresses that the host must not read or write. Empty where the host can address the arena
  // (HostBytes) and before Allocate.
  virtual absl::Span<std::byte> DeviceBytes(Arena /*arena*/) { return {}; }

  // What it holds of the device's memory besides its arenas, by now; grows as programs are
  // prepared. 0: unknown.
  virtual BackendMemory memory() const { return {}; }

 protected:
  // As the functions above without Do, which have checked before what does not depend on the
  // device: no size is negative, a program lies inside the arenas, a copy has at least a byte.
  virtual absl::Status DoAllocate(const ArenaBytes& bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<PreparedProgram>> DoPrepare(Program program) = 0;
  virtual absl::Status DoWrite(const TensorView& to, absl::Span<const std::byte> from) = 0;
  virtual absl::Status DoRead(const TensorView& from, absl::Span<std::byte> to) = 0;

 private:
  bool allocated_ = false;
  ArenaBytes arena_bytes_{};  // zero until they are allocated
};

// Shapes, dtypes and alignment of every op, and what panel groups ask for. Backends share it, so
// both give the same errors and kernels need no checks. INVALID_ARGUMENT: "op 12 LayerNorm: gamma
// is [7], want [64]".
absl::Status CheckProgram(const Program& program);

// That every operand lies inside its arena.
absl::Status CheckBounds(const Program& program, const ArenaBytes& bytes);

// That `view` lies inside its arena and the host gave as many bytes as it has.
absl::Status CheckHostCopy(const TensorView& view, const ArenaBytes& arenas, size_t host_bytes);

}  // namespace vitscale

#endif  // KERNELS_BACKEND_H_
