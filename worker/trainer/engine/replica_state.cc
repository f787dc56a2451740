// The state of a replica between its device and the host. See replica.h.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/model/vit.h"
#include "worker/trainer/engine/replica.h"

namespace vitscale {
namespace {

// Bytes of `whole` from `offset` on, as a tensor of its own.
TensorView Slice(const TensorView& whole, int64_t offset, size_t bytes) {
  return {
      whole.name, whole.arena, whole.offset + offset, DType::kU8, {static_cast<int64_t>(bytes)}};
}

// What a checkpoint file is told: it says that the device has failed, not what failed on disk.
absl::Status OfDevice(const absl::Status& status) {
  return status.ok() ? status : absl::AbortedError(absl::StrCat("device: ", status.message()));
}

}  // namespace

absl::Status Replica::FillWithZeros(Arena arena) {
  const int64_t bytes = plan_.arena_bytes[static_cast<int>(arena)];
  const std::vector<std::byte> zeros(std::min(bytes, kTensorChunkBytes));
  const TensorView whole{ArenaName(arena), arena, 0, DType::kU8, {bytes}};
  for (int64_t done = 0; done < bytes; done += kTensorChunkBytes) {
    const size_t piece = std::min(bytes - done, kTensorChunkBytes);
    VITSCALE_RETURN_IF_ERROR(
        backend_->Write(Slice(whole, done, piece), absl::MakeConstSpan(zeros.data(), piece)));
  }
  return absl::OkStatus();
}

absl::Status Replica::Initialise(uint64_t seed) {
  for (const Arena arena :
       {Arena::kParameters, Arena::kMomentum, Arena::kSecondMoment, Arena::kAverage}) {
    VITSCALE_RETURN_IF_ERROR(FillWithZeros(arena));
  }
  weights_current_ = false;
  const ParamTable& table = plan_.layout.table;
  std::vector<float> values;
  for (size_t i = 0; i < table.parameters().size(); ++i) {
    const Parameter& parameter = table.parameters()[i];
    values.resize(parameter.elements());
    InitializeParameter(table, static_cast<int>(i), seed, absl::MakeSpan(values));
    const absl::Span<const std::byte> bytes(reinterpret_cast<const std::byte*>(values.data()),
                                            values.size() * sizeof(float));
    VITSCALE_RETURN_IF_ERROR(backend_->Write(table.ParameterView(parameter), bytes));
    if (!plan_.layout.polyak) continue;
    VITSCALE_RETURN_IF_ERROR(backend_->Write(table.AverageView(parameter), bytes));
  }
  return absl::OkStatus();
}

std::vector<StateTensor> Replica::State() const {
  const ParamTable& table = plan_.layout.table;
  std::vector<StateTensor> state;
  const auto add = [&](const char* prefix, const Parameter& parameter, TensorView view) {
    if (!view.present() || view.elements() == 0) return;
    state.push_back({absl::StrCat(prefix, parameter.name), std::move(view)});
  };
  for (const Parameter& parameter : table.parameters()) {
    add(kParameterPrefix, parameter, table.ParameterView(parameter));
    if (!plan_.layout.training) continue;
    add(kMomentumPrefix, parameter, table.MomentumView(parameter));
    add(kSecondMomentPrefix, parameter, table.SecondMomentView(parameter));
    if (plan_.layout.polyak) add(kAveragePrefix, parameter, table.AverageView(parameter));
  }
  return state;
}

absl::Status Replica::ReadState(const StateTensor& tensor, int64_t offset,
                                absl::Span<std::byte> to) {
  return backend_->Read(Slice(tensor.view, offset, to.size()), to);
}

absl::Status Replica::WriteState(const StateTensor& tensor, int64_t offset,
                                 absl::Span<const std::byte> from) {
  weights_current_ = false;
  return backend_->Write(Slice(tensor.view, offset, from.size()), from);
}

absl::Span<std::byte> Replica::HostMemory(const TensorView& view) const {
  const absl::Span<std::byte> arena = backend_->HostBytes(view.arena);
  return arena.empty() ? arena : arena.subspan(view.offset, view.bytes());
}

std::vector<NamedTensor> Replica::StateSources() {
  std::vector<NamedTensor> sources;
  for (StateTensor& tensor : State()) {
    NamedTensor source{tensor.name, tensor.view.dtype, tensor.view.shape, HostMemory(tensor.view)};
    if (source.bytes.empty()) {
      source.read = [this, tensor = std::move(tensor)](int64_t offset, absl::Span<std::byte> to) {
        return OfDevice(ReadState(tensor, offset, to));
      };
    }
    sources.push_back(std::move(source));
  }
  return sources;
}

std::vector<TensorTarget> Replica::StateTargets() {
  weights_current_ = false;
  std::vector<TensorTarget> targets;
  for (StateTensor& tensor : State()) {
    TensorTarget target{tensor.name, tensor.view.dtype, tensor.view.shape, HostMemory(tensor.view)};
    if (target.to.empty()) {
      target.take = [this, tensor = std::move(tensor)](int64_t offset,
                                                       absl::Span<const std::byte> piece) {
        return OfDevice(WriteState(tensor, offset, piece));
      };
    }
    targets.push_back(std::move(target));
  }
  return targets;
}

absl::StatusOr<uint64_t> Replica::Digest() {
  VITSCALE_RETURN_IF_ERROR(backend_->Run(*digest_, {}, nullptr));
  int64_t digest = 0;
  VITSCALE_RETURN_IF_ERROR(
      backend_->Read(plan_.layout.statistics.digest,
                     absl::MakeSpan(reinterpret_cast<std::byte*>(&digest), sizeof(digest))));
  return static_cast<uint64_t>(digest);
}

}  // namespace vitscale
