#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/program_binder.h"

namespace vitscale::cuda {
namespace {

// Markers whose events are in the stream, oldest first, and whom to tell.
class MarkersUnderWay {
 public:
  MarkersUnderWay(MarkerSink* sink, const CudaStream& stream) : sink_(sink), stream_(stream) {}

  absl::Status Enqueue(const CudaStep& step) {
    if (sink_ == nullptr) return absl::OkStatus();
    VITSCALE_RETURN_IF_ERROR(step.reached->Record(stream_));
    steps_.push_back(&step);
    return absl::OkStatus();
  }
  // Tells what has been reached by now.
  absl::Status Poll() {
    while (!steps_.empty()) {
      VITSCALE_ASSIGN_OR_RETURN(const bool reached, steps_.front()->reached->Reached());
      if (!reached) break;
      TellFirst();
    }
    return absl::OkStatus();
  }
  absl::Status Finish() {
    while (!steps_.empty()) {
      VITSCALE_RETURN_IF_ERROR(steps_.front()->reached->Synchronize());
      TellFirst();
    }
    return absl::OkStatus();
  }

 private:
  void TellFirst() {
    const Op& marker = steps_.front()->marker;
    steps_.pop_front();
    if (const auto* ready = std::get_if<GradientsReadyArgs>(&marker)) {
      sink_->OnGradientsReady(ready->bucket);
    } else {
      sink_->OnPhase(std::get<PhaseArgs>(marker).name);
    }
  }

  MarkerSink* const sink_;
  const CudaStream& stream_;
  std::deque<const CudaStep*> steps_;
};

class CudaBackend : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> Create(Device device);
  // What is freed waits for the device of this thread, which may be another one.
  ~CudaBackend() override { (void)UseDevice(device_); }

  BackendInfo info() const override;
  absl::Status Run(PreparedProgram& program, const StepScalars& scalars, MarkerSink* sink) override;
  absl::Span<std::byte> HostBytes(Arena /*arena*/) override { return {}; }
  BackendMemory memory() const override { return {weights_.bytes(), workspace_bytes_}; }
  absl::Span<std::byte> DeviceBytes(Arena arena) override {
    const DeviceMemory& memory = arenas_[static_cast<int>(arena)];
    return {memory.data(), static_cast<size_t>(memory.bytes())};
  }

 protected:
  absl::Status DoAllocate(const ArenaBytes& bytes) override;
  absl::StatusOr<std::unique_ptr<PreparedProgram>> DoPrepare(Program program) override;
  absl::Status DoWrite(const TensorView& to, absl::Span<const std::byte> from) override;
  absl::Status DoRead(const TensorView& from, absl::Span<std::byte> to) override;

 private:
  CudaBackend(Device device, CudaStream stream, HostStaging staging, std::unique_ptr<Blas> blas)
      : device_(std::move(device)),
        stream_(std::move(stream)),
        staging_(std::move(staging)),
        blas_(std::move(blas)) {}

  absl::Status Launch(const CudaProgram& program, const RunContext& context, MarkerSink* sink);
  absl::StatusOr<const StepScalars*> SendScalars(const StepScalars& scalars);
  std::byte* Address(const TensorView& view) const {
    return arenas_[static_cast<int>(view.arena)].data() + view.offset;
  }

  const Device device_;
  CudaStream stream_;
  HostStaging staging_;
  std::unique_ptr<Blas> blas_;
  DeviceWeights weights_;
  Arenas arenas_;
  int64_t workspace_bytes_ = 0;  // of all programs prepared so far
  PinnedMemory host_scalars_;
  DeviceMemory device_scalars_;
};

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(Device device) {
  VITSCALE_RETURN_IF_ERROR(UseDevice(device));
  VITSCALE_RETURN_IF_ERROR(CheckKernelsFit(device));
  VITSCALE_ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create());
  VITSCALE_ASSIGN_OR_RETURN(HostStaging staging, HostStaging::Create());
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<Blas> blas, Blas::Create(device));
  auto backend = std::unique_ptr<CudaBackend>(
      new CudaBackend(std::move(device), std::move(stream), std::move(staging), std::move(blas)));
  VITSCALE_ASSIGN_OR_RETURN(backend->host_scalars_,
                            PinnedMemory::Allocate(sizeof(StepScalars), "step scalars"));
  VITSCALE_ASSIGN_OR_RETURN(backend->device_scalars_,
                            DeviceMemory::Allocate(sizeof(StepScalars), "step scalars"));
  return backend;
}

BackendInfo CudaBackend::info() const {
  BackendInfo info;
  info.name = "cuda";
  info.device = device_.name;
  info.instruction_set = absl::StrCat("sm_", device_.limits.sm);
  info.bf16_matmul = true;
  info.threads = 1;
  info.memory_bytes = MemoryInUse(device_);
  info.libraries = absl::StrCat(RuntimeVersion(), ", ", blas_->version());
  return info;
}

absl::Status CudaBackend::DoAllocate(const ArenaBytes& bytes) {
  VITSCALE_RETURN_IF_ERROR(UseDevice(device_));
  Arenas arenas;
  for (int i = 0; i < kArenaCount; ++i) {
    const char* name = ArenaName(static_cast<Arena>(i));
    VITSCALE_ASSIGN_OR_RETURN(arenas[i], DeviceMemory::Allocate(bytes[i], name));
    if (bytes[i] == 0) continue;
    VITSCALE_RETURN_IF_ERROR(CudaStatus(
        cudaMemsetAsync(arenas[i].data(), 0, static_cast<size_t>(bytes[i]), stream_.get()), name));
  }
  arenas_ = std::move(arenas);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PreparedProgram>> CudaBackend::DoPrepare(Program program) {
  VITSCALE_RETURN_IF_ERROR(UseDevice(device_));
  const BinderResources resources{device_, arenas_, stream_, staging_, weights_, *blas_};
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<CudaProgram> prepared, BindProgram(program, resources));
  VITSCALE_RETURN_IF_ERROR(weights_.FinishPrepare(staging_, stream_));
  blas_->FinishPrepare();
  workspace_bytes_ += prepared->workspace.bytes();
  return std::unique_ptr<PreparedProgram>(std::move(prepared));
}

// The copy goes through pinned memory, so the host need not wait for it; the slot is free again
// because every Run waits at its end.
absl::StatusOr<const StepScalars*> CudaBackend::SendScalars(const StepScalars& scalars) {
  std::memcpy(host_scalars_.data(), &scalars, sizeof(scalars));
  VITSCALE_RETURN_IF_ERROR(
      CudaStatus(cudaMemcpyAsync(device_scalars_.data(), host_scalars_.data(), sizeof(scalars),
                                 cudaMemcpyHostToDevice, stream_.get()),
                 "send step scalars"));
  return reinterpret_cast<const StepScalars*>(device_scalars_.data());
}

absl::Status CudaBackend::Launch(const CudaProgram& program, const RunContext& context,
                                 MarkerSink* sink) {
  VITSCALE_RETURN_IF_ERROR(weights_.MakeNew(context));
  MarkersUnderWay markers(sink, stream_);
  for (const CudaStep& step : program.steps) {
    if (step.op != nullptr) {
      VITSCALE_RETURN_IF_ERROR(Annotate(step.op->Run(context), step.name));
    } else {
      VITSCALE_RETURN_IF_ERROR(markers.Enqueue(step));
    }
    VITSCALE_RETURN_IF_ERROR(markers.Poll());
  }
  return markers.Finish();
}

absl::Status CudaBackend::Run(PreparedProgram& program, const StepScalars& scalars,
                              MarkerSink* sink) {
  VITSCALE_RETURN_IF_ERROR(UseDevice(device_));
  VITSCALE_ASSIGN_OR_RETURN(const StepScalars* on_device, SendScalars(scalars));
  absl::Status status =
      Launch(static_cast<const CudaProgram&>(program), {stream_.get(), on_device}, sink);
  status.Update(stream_.Synchronize());
  return status;
}

absl::Status CudaBackend::DoWrite(const TensorView& to, absl::Span<const std::byte> from) {
  VITSCALE_RETURN_IF_ERROR(UseDevice(device_));
  return Annotate(staging_.Write(Address(to), from, stream_), to.name);
}

absl::Status CudaBackend::DoRead(const TensorView& from, absl::Span<std::byte> to) {
  VITSCALE_RETURN_IF_ERROR(UseDevice(device_));
  return Annotate(staging_.Read(Address(from), to, stream_), from.name);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(const int index, ParseDeviceIndex(options.device));
  VITSCALE_ASSIGN_OR_RETURN(Device device, FindDevice(index));
  auto backend = CudaBackend::Create(std::move(device));
  if (!backend.ok()) return Annotate(backend.status(), options.device);
  return backend;
}

}  // namespace vitscale::cuda
