#include "worker/trainer/engine/checkpoint_writer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"

namespace vitscale {

CheckpointWriter::CheckpointWriter(CheckpointStore store, Clock& clock, Faults& faults, Sink sink)
    : store_(std::move(store)),
      clock_(clock),
      faults_(faults),
      sink_(std::move(sink)),
      thread_([this] { Run(); }) {}

CheckpointWriter::~CheckpointWriter() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    // What was abandoned is still cleared away: on a full disk it is in the way of the next save.
    std::erase_if(jobs_, [](const Job& job) { return !std::holds_alternative<Abandon>(job); });
  }
  thread_.join();
}

void CheckpointWriter::Push(Job job) {
  absl::MutexLock lock(&mutex_);
  jobs_.push_back(std::move(job));
}

void CheckpointWriter::AbandonSave(const CheckpointName& name, bool discard) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(jobs_, [&name](const Job& job) {
    const Part* part = std::get_if<Part>(&job);
    return part != nullptr && part->name == name;
  });
  if (discard) jobs_.push_back(Abandon{name});
}

void CheckpointWriter::Flush() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](CheckpointWriter* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
        return self->jobs_.empty() && !self->busy_;
      },
      this));
}

CheckpointWriter::Totals CheckpointWriter::totals() const {
  absl::MutexLock lock(&mutex_);
  return totals_;
}

void CheckpointWriter::Run() {
  while (true) {
    std::optional<Job> job;
    {
      absl::MutexLock lock(&mutex_);
      busy_ = false;
      mutex_.Await(absl::Condition(
          +[](CheckpointWriter* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
            return self->stopping_ || !self->jobs_.empty();
          },
          this));
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      busy_ = true;
    }
    std::visit([this](auto& j) { Do(j); }, *job);
  }
}

void CheckpointWriter::Do(Part& part) {
  const absl::Time began = clock_.Monotonic();
  std::vector<NamedTensor> tensors;
  for (const SnapshotTensor& tensor : part.tensors) {
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape,
                       absl::MakeConstSpan(tensor.data.get(), tensor.bytes)});
  }
  PartWritten written{part.name.generation, part.name.step, absl::OkStatus(), 0, 0};
  const Faults::Place place{part.name.step, -1, part.rank, part.name.generation};
  absl::StatusOr<PartFile> file = absl::ResourceExhaustedError("injected: no space left on device");
  if (!faults_.At("snapshot", place, "fail_storage")) {
    const absl::Status begun = store_.Begin(part.name);
    file = begun.ok() ? store_.WritePart(part.name, part.rank, part.world_size, tensors) : begun;
  }
  faults_.At("checkpoint_part", place);
  if (file.ok()) {
    written.bytes = file->bytes;
    written.crc32c = file->crc32c;
  } else {
    written.status = Annotate(file.status(), absl::StrCat("part of rank ", part.rank));
  }
  {
    absl::MutexLock lock(&mutex_);
    totals_.save_seconds = absl::ToDoubleSeconds(clock_.Monotonic() - began);
    if (!file.ok()) ++totals_.failures;
  }
  sink_(written);
}

void CheckpointWriter::Do(Manifest& job) {
  CheckpointManifest& manifest = job.manifest;
  manifest.time = clock_.Now();
  const Faults::Place place{manifest.name.step, -1, 0, manifest.name.generation};
  faults_.At("before_manifest", place);
  ManifestWritten written{
      manifest.name.generation, manifest.name.step, store_.WriteManifest(manifest), {}, {}};
  faults_.At("after_manifest", place);
  if (written.status.ok()) {
    written.checkpoint = InfoOf(manifest, store_.PathOf(manifest.name));
    job.retention.now = clock_.Now();
    written.deleted = Retain(job.retention);
  }
  {
    absl::MutexLock lock(&mutex_);
    if (written.status.ok()) {
      totals_.checkpoint_bytes = manifest.total_bytes();
      totals_.checkpoint_step = manifest.name.step;
      totals_.checkpoint_time_seconds = absl::ToDoubleSeconds(manifest.time - absl::UnixEpoch());
    } else {
      ++totals_.failures;
    }
  }
  sink_(written);
}

// A failure leaves more than was wanted: a warning, not an error.
std::vector<link::CheckpointInfo> CheckpointWriter::Retain(const RetentionRequest& request) {
  std::vector<link::CheckpointInfo> deleted;
  const auto removed = store_.Retain(request);
  if (!removed.ok()) {
    VITSCALE_LOG(WARNING) << "retention: " << removed.status().message();
    return deleted;
  }
  for (const std::string& id : *removed) {
    const auto parts = ParseCheckpointId(id);
    if (!parts.ok()) continue;
    link::CheckpointInfo info;
    info.id = id;
    info.step = parts->name.step;
    info.attempt = parts->name.attempt;
    info.generation = parts->name.generation;
    info.deleted = true;
    deleted.push_back(std::move(info));
  }
  return deleted;
}

void CheckpointWriter::Do(Abandon& abandon) {
  const absl::Status status = store_.Discard(abandon.name);
  if (!status.ok() && !absl::IsNotFound(status)) {
    VITSCALE_LOG(WARNING) << "abandoned save " << abandon.name.Text() << ": " << status.message();
  }
}

}  // namespace vitscale
