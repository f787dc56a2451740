#include "worker/bench/timed_files.h"

#include <utility>

#include "kernels/base/status.h"
#include "worker/bench/bench_model.h"

namespace vitscale {
namespace {

class TimedFile : public WritableFile {
 public:
  TimedFile(std::unique_ptr<WritableFile> file, TimedFiles& times)
      : file_(std::move(file)), times_(times) {}
  absl::Status Append(absl::string_view bytes) override { return file_->Append(bytes); }
  absl::Status Sync() override {
    absl::Status status;
    times_.AddSyncSeconds(SecondsOf([&] { status = file_->Sync(); }));
    return status;
  }
  absl::Status Close() override { return file_->Close(); }

 private:
  const std::unique_ptr<WritableFile> file_;
  TimedFiles& times_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WritableFile>> TimedFiles::CreateExclusive(const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs_.CreateExclusive(path));
  return std::make_unique<TimedFile>(std::move(file), *this);
}

absl::Status TimedFiles::SyncDirectory(const std::string& path) {
  absl::Status status;
  AddSyncSeconds(SecondsOf([&] { status = fs_.SyncDirectory(path); }));
  return status;
}

}  // namespace vitscale
