#include "kernels/cuda/nccl/nccl_communicator.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/base/clock.h"
#include "kernels/base/status.h"
#include "kernels/cuda/nccl/abort_watch.h"
#include "kernels/cuda/nccl/device_claim.h"
#include "kernels/cuda/runtime/device.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/cuda/runtime/stream.h"

namespace vitscale::cuda {
namespace {

constexpr int64_t kGatherBytes = 16 << 10;  // of one rank at once

// Sleeps between two looks: short while something is about to happen, never long.
class Patience {
 public:
  void Sleep() {
    absl::SleepFor(wait_);
    wait_ = std::min(2 * wait_, absl::Microseconds(500));
  }

 private:
  absl::Duration wait_ = absl::Microseconds(10);
};

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(const NcclLibrary& library, Device device, CudaStream stream, CudaEvent reached,
                   const CommunicatorOptions& options)
      : library_(library),
        device_(std::move(device)),
        stream_(std::move(stream)),
        reached_(std::move(reached)),
        watch_(options.abort_timeout, options.on_abort_hung) {}
  ~NcclCommunicator() override {
    Abort();
    watch_.Join();
    // What is freed below waits for the device of this thread, which may be another rank's.
    (void)UseDevice(device_);
  }

  std::string algorithm() const override { return absl::StrCat("nccl_", library_.version()); }
  absl::StatusOr<std::string> NewId() override;
  absl::Status Connect(absl::string_view id, int rank, int world_size,
                       absl::Duration timeout) override;
  absl::Status AllReduceSum(absl::Span<float> values) override;
  absl::Status AllGather(absl::string_view own, absl::Span<char> all) override;
  void Abort() override {
    watch_.Begin([this] { EndAll(); });
  }

 private:
  absl::Status MakeRoom(int world_size);
  absl::Status GatherPiece(absl::string_view own);
  void EndAll();

  // Calls NCCL or CUDA unless it is aborted.
  absl::Status Call(absl::string_view what, absl::FunctionRef<absl::Status()> call);
  // Asks until `done` says so; CANCELLED once aborted, UNAVAILABLE after `deadline`.
  absl::Status Await(absl::string_view what, absl::Time deadline,
                     absl::FunctionRef<absl::StatusOr<bool>()> done);
  // Until NCCL has put what it was asked for into the stream.
  absl::Status AwaitSettled(absl::string_view what, absl::Time deadline = absl::InfiniteFuture());
  // Until the stream has come to `reached_`; errors of peers end it.
  absl::Status AwaitReached(absl::string_view what);
  absl::StatusOr<bool> Settled(absl::string_view what) const;

  const NcclLibrary library_;
  const Device device_;
  const CudaStream stream_;
  const CudaEvent reached_;
  PinnedMemory host_;
  DeviceMemory memory_;
  int rank_ = 0, world_size_ = 0;

  // Held during every call: an abort frees what the others use. None of them blocks but the abort.
  absl::Mutex calls_;
  bool ended_ ABSL_GUARDED_BY(calls_) = false;
  std::optional<DeviceClaim> claim_;  // as comm_: from before it is made until it is gone
  ncclComm_t comm_ = nullptr;         // used under calls_, by lambdas that no annotation reaches
  AbortWatch watch_;
};

// ---- asking ------------------------------------------------------------------------------------

absl::Status NcclCommunicator::Call(absl::string_view what,
                                    absl::FunctionRef<absl::Status()> call) {
  absl::MutexLock lock(&calls_);
  if (ended_) return absl::CancelledError(absl::StrCat(what, ": aborted"));
  VITSCALE_RETURN_IF_ERROR(UseDevice(device_));
  return call();
}

absl::Status NcclCommunicator::Await(absl::string_view what, absl::Time deadline,
                                     absl::FunctionRef<absl::StatusOr<bool>()> done) {
  bool is_done = false;
  for (Patience patience;; patience.Sleep()) {
    VITSCALE_RETURN_IF_ERROR(Call(what, [&]() -> absl::Status {
      VITSCALE_ASSIGN_OR_RETURN(is_done, done());
      return absl::OkStatus();
    }));
    if (is_done) return absl::OkStatus();
    if (RealClock().Monotonic() >= deadline) {
      return absl::UnavailableError(absl::StrCat(what, ": not all ranks came in time"));
    }
  }
}

absl::StatusOr<bool> NcclCommunicator::Settled(absl::string_view what) const {
  ncclResult_t state = ncclSuccess;
  VITSCALE_RETURN_IF_ERROR(
      library_.ToStatus(library_.CommGetAsyncError(comm_, &state), what, comm_));
  VITSCALE_RETURN_IF_ERROR(library_.ToStatus(state, what, comm_));
  return state == ncclSuccess;
}

absl::Status NcclCommunicator::AwaitSettled(absl::string_view what, absl::Time deadline) {
  return Await(what, deadline, [&] { return Settled(what); });
}

absl::Status NcclCommunicator::AwaitReached(absl::string_view what) {
  return Await(what, absl::InfiniteFuture(), [&]() -> absl::StatusOr<bool> {
    VITSCALE_RETURN_IF_ERROR(Settled(what).status());
    return reached_.Reached();
  });
}

// ---- life --------------------------------------------------------------------------------------

absl::StatusOr<std::string> NcclCommunicator::NewId() {
  ncclUniqueId id;
  VITSCALE_RETURN_IF_ERROR(
      library_.ToStatus(library_.GetUniqueId(&id), "make an id for the ranks", nullptr));
  return std::string(id.internal, sizeof(id.internal));
}

absl::Status NcclCommunicator::Connect(absl::string_view id, int rank, int world_size,
                                       absl::Duration timeout) {
  constexpr absl::string_view kWhat = "connect the devices";
  ncclUniqueId unique;
  if (id.size() != sizeof(unique.internal)) {
    return absl::InternalError(
        absl::StrCat(kWhat, ": the id has ", id.size(), " bytes, want ", sizeof(unique.internal)));
  }
  std::memcpy(unique.internal, id.data(), id.size());
  rank_ = rank;
  world_size_ = world_size;
  const absl::Time deadline = RealClock().Monotonic() + timeout;
  VITSCALE_RETURN_IF_ERROR(Call(kWhat, [&]() -> absl::Status {
    VITSCALE_ASSIGN_OR_RETURN(claim_, DeviceClaim::Take(device_.index));
    VITSCALE_RETURN_IF_ERROR(MakeRoom(world_size));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return library_.ToStatus(library_.CommInitRankConfig(&comm_, world_size, unique, rank, &config),
                             kWhat, nullptr);
  }));
  return AwaitSettled(kWhat, deadline);
}

absl::Status NcclCommunicator::MakeRoom(int world_size) {
  VITSCALE_ASSIGN_OR_RETURN(host_,
                            PinnedMemory::Allocate(world_size * kGatherBytes, "what ranks gather"));
  VITSCALE_ASSIGN_OR_RETURN(memory_,
                            DeviceMemory::Allocate(world_size * kGatherBytes, "what ranks gather"));
  return absl::OkStatus();
}

// The lock is held all the while: whoever waits here learns that it is over when it is.
void NcclCommunicator::EndAll() {
  absl::MutexLock lock(&calls_);
  ended_ = true;
  (void)UseDevice(device_);
  if (comm_ != nullptr) (void)library_.CommAbort(std::exchange(comm_, nullptr));
  for (Patience patience; cudaStreamQuery(stream_.get()) == cudaErrorNotReady;) patience.Sleep();
  claim_.reset();
}

// ---- operations --------------------------------------------------------------------------------

absl::Status NcclCommunicator::AllReduceSum(absl::Span<float> values) {
  constexpr absl::string_view kWhat = "all-reduce";
  VITSCALE_RETURN_IF_ERROR(Call(kWhat, [&] {
    return library_.ToStatus(library_.AllReduce(values.data(), values.data(), values.size(),
                                                ncclFloat32, ncclSum, comm_, stream_.get()),
                             kWhat, comm_);
  }));
  return AwaitSettled(kWhat);
}

absl::Status NcclCommunicator::AllGather(absl::string_view own, absl::Span<char> all) {
  VITSCALE_CHECK(!own.empty() && all.size() == own.size() * world_size_)
      << own.size() << " bytes of each of " << world_size_ << " ranks give " << all.size();
  for (size_t at = 0; at < own.size(); at += kGatherBytes) {
    const absl::string_view piece = own.substr(at, kGatherBytes);
    VITSCALE_RETURN_IF_ERROR(GatherPiece(piece));
    for (int rank = 0; rank < world_size_; ++rank) {
      std::memcpy(all.data() + rank * own.size() + at, host_.data() + rank * piece.size(),
                  piece.size());
    }
  }
  return absl::OkStatus();
}

// In place: NCCL takes the own bytes from where they will lie.
absl::Status NcclCommunicator::GatherPiece(absl::string_view own) {
  constexpr absl::string_view kWhat = "all-gather";
  std::byte* const host_own = host_.data() + rank_ * own.size();
  std::byte* const device_own = memory_.data() + rank_ * own.size();
  std::memcpy(host_own, own.data(), own.size());
  VITSCALE_RETURN_IF_ERROR(Call(kWhat, [&]() -> absl::Status {
    VITSCALE_RETURN_IF_ERROR(CudaStatus(
        cudaMemcpyAsync(device_own, host_own, own.size(), cudaMemcpyHostToDevice, stream_.get()),
        kWhat));
    return library_.ToStatus(
        library_.AllGather(device_own, memory_.data(), own.size(), ncclUint8, comm_, stream_.get()),
        kWhat, comm_);
  }));
  VITSCALE_RETURN_IF_ERROR(AwaitSettled(kWhat));
  VITSCALE_RETURN_IF_ERROR(Call(kWhat, [&]() -> absl::Status {
    VITSCALE_RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(host_.data(), memory_.data(), own.size() * world_size_,
                                   cudaMemcpyDeviceToHost, stream_.get()),
                   kWhat));
    return reached_.Record(stream_);
  }));
  return AwaitReached(kWhat);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(
    const CommunicatorOptions& options, const NcclLibrary& library) {
  VITSCALE_ASSIGN_OR_RETURN(const int index, ParseDeviceIndex(options.device));
  VITSCALE_ASSIGN_OR_RETURN(Device device, FindDevice(index));
  VITSCALE_RETURN_IF_ERROR(UseDevice(device));
  VITSCALE_ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create());
  VITSCALE_ASSIGN_OR_RETURN(CudaEvent reached, CudaEvent::Create());
  return std::make_unique<NcclCommunicator>(library, std::move(device), std::move(stream),
                                            std::move(reached), options);
}

absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(
    const CommunicatorOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(const NcclLibrary library, LoadNccl());
  return CreateNcclCommunicator(options, library);
}

}  // namespace vitscale::cuda
