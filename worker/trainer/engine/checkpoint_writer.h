// Writes checkpoints beside training: a thread that takes parts, manifests and clean-ups in the
// order in which they were asked for. Outcomes go to a callback, on the writer's thread.

#ifndef WORKER_TRAINER_ENGINE_CHECKPOINT_WRITER_H_
#define WORKER_TRAINER_ENGINE_CHECKPOINT_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/clock.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/trainer/core/events.h"
#include "worker/trainer/engine/faults.h"

namespace vitscale {

// A tensor copied aside, so that training may go on while it is written.
struct SnapshotTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t bytes = 0;
  std::unique_ptr<std::byte[]> data;  // no vector: that would write zeros first
};

class CheckpointWriter {
 public:
  using Sink = std::function<void(CoreEvent)>;  // PartWritten, ManifestWritten

  CheckpointWriter(CheckpointStore store, Clock& clock, Faults& faults, Sink sink);
  // Ends after the job under way; what waits is dropped.
  ~CheckpointWriter();

  struct Part {
    CheckpointName name;
    int rank = 0, world_size = 1;
    std::vector<SnapshotTensor> tensors;
  };
  struct Manifest {
    CheckpointManifest manifest;  // `files` hold the sizes that the exchange showed
    RetentionRequest retention;
  };
  void WritePart(Part part) { Push(std::move(part)); }
  void WriteManifest(Manifest manifest) { Push(std::move(manifest)); }
  // Drops a part that waits to be written; with `discard` also removes the folder.
  void AbandonSave(const CheckpointName& name, bool discard);
  // Waits until nothing is under way or waiting.
  void Flush();

  // Seconds and bytes of the last part, and failures so far; for metrics.
  struct Totals {
    double save_seconds = 0;
    int64_t failures = 0;
    int64_t checkpoint_bytes = 0, checkpoint_step = 0;
    double checkpoint_time_seconds = 0;  // wall clock, since the epoch
  };
  Totals totals() const;

 private:
  struct Abandon {
    CheckpointName name;
  };
  using Job = std::variant<Part, Manifest, Abandon>;
  void Push(Job job);
  void Run();
  void Do(Part& part);
  void Do(Manifest& manifest);
  void Do(Abandon& abandon);
  std::vector<link::CheckpointInfo> Retain(const RetentionRequest& request);

  CheckpointStore store_;
  Clock& clock_;
  Faults& faults_;
  const Sink sink_;

  mutable absl::Mutex mutex_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Totals totals_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_ENGINE_CHECKPOINT_WRITER_H_
