// Compute copies of weights on CUDA. Contract: PrepareWeightsArgs in kernels/ops.h. Reference:
// kernels/cpu/packed_weights.cc.
//
//   variant   chosen when                           memory traffic per weight
//   simple    a part's width is no multiple of 8    read 4 B, write 2 B (bf16) or 4 B
//   vector    otherwise                             the same, 16 bytes at a time
//
// One launch makes the copies of all tensors. A block takes one tile: kTileElements consecutive
// elements of one part, which a table on the device names.

#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/base/status.h"
#include "kernels/cuda/device_weights.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/dialect/vec.h"

namespace vitscale::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;
constexpr int kTileElements = kThreads * kVector;

template <typename T>
__device__ inline void CopyTileSimple(const PartCopy& part, int64_t begin, int64_t end) {
  T* to = static_cast<T*>(part.to);
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    to[i / part.width * part.to_stride + i % part.width] = Rounded<T>(part.from[i]);
  }
}

__device__ inline void StoreEight(Bf16* to, const Vec<float, 4>& low, const Vec<float, 4>& high) {
  Vec<Bf16, 8> all;
  for (int i = 0; i < 4; ++i) {
    all[i] = Rounded<Bf16>(low[i]);
    all[i + 4] = Rounded<Bf16>(high[i]);
  }
  StoreVec(to, all);
}
__device__ inline void StoreEight(float* to, const Vec<float, 4>& low, const Vec<float, 4>& high) {
  StoreVec(to, low);
  StoreVec(to + 4, high);
}

// Eight elements never straddle rows: the width is a multiple of 8.
template <typename T>
__device__ inline void CopyTileVector(const PartCopy& part, int64_t begin, int64_t end) {
  const int64_t i = begin + threadIdx.x * kVector;
  if (i >= end) return;
  T* to = static_cast<T*>(part.to) + i / part.width * part.to_stride + i % part.width;
  StoreEight(to, LoadVec<4>(part.from + i), LoadVec<4>(part.from + i + 4));
}

template <typename T>
__device__ inline void CopyTile(const PartCopy& part, int64_t begin, int64_t end) {
  if (part.width % kVector == 0 && part.to_stride % kVector == 0) {
    CopyTileVector<T>(part, begin, end);
  } else {
    CopyTileSimple<T>(part, begin, end);
  }
}

__global__ void CopyTiles(const PartCopy* parts, const int* part_of_tile) {
  const PartCopy part = parts[part_of_tile[blockIdx.x]];
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) - part.first_tile) * kTileElements;
  const int64_t end = begin + kTileElements < part.elements ? begin + kTileElements : part.elements;
  if (part.bf16) {
    CopyTile<Bf16>(part, begin, end);
  } else {
    CopyTile<float>(part, begin, end);
  }
}

WeightSource Bind(const WeightParts& parts, const CudaOpBuilder& builder) {
  WeightSource source;
  source.rows = parts[0].elements() / parts[0].columns();  // 1 for a bias
  for (const TensorView& part : parts) {
    source.parts.push_back(builder.Memory<const float>(part));
    source.widths.push_back(part.columns());
  }
  return source;
}

template <typename T>
absl::StatusOr<DeviceMemory> Upload(const std::vector<T>& values, HostStaging& staging,
                                    const CudaStream& stream) {
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  const size_t count = values.size() * sizeof(T);
  VITSCALE_ASSIGN_OR_RETURN(DeviceMemory memory,
                            DeviceMemory::Allocate(static_cast<int64_t>(count), "weight table"));
  VITSCALE_RETURN_IF_ERROR(staging.Write(memory.data(), {bytes, count}, stream));
  return memory;
}

}  // namespace

int64_t WeightSource::width() const {
  int64_t sum = 0;
  for (const int64_t width : widths) sum += width;
  return sum;
}

bool WeightSource::operator<(const WeightSource& other) const {
  return std::tie(parts, widths, rows) < std::tie(other.parts, other.widths, other.rows);
}

absl::Status CopyTable::Fill(const std::vector<PartCopy>& parts, HostStaging& staging,
                             const CudaStream& stream) {
  std::vector<PartCopy> table = parts;
  std::vector<int> part_of_tile;
  for (size_t i = 0; i < table.size(); ++i) {
    table[i].first_tile = static_cast<int64_t>(part_of_tile.size());
    const int64_t tiles = (table[i].elements + kTileElements - 1) / kTileElements;
    part_of_tile.insert(part_of_tile.end(), static_cast<size_t>(tiles), static_cast<int>(i));
  }
  tiles_ = static_cast<int64_t>(part_of_tile.size());
  VITSCALE_ASSIGN_OR_RETURN(parts_, Upload(table, staging, stream));
  VITSCALE_ASSIGN_OR_RETURN(part_of_tile_, Upload(part_of_tile, staging, stream));
  return absl::OkStatus();
}

absl::Status CopyTable::Launch(cudaStream_t stream) const {
  if (empty()) return absl::OkStatus();
  return cuda::Launch(CopyTiles, dim3(static_cast<unsigned>(tiles_)), dim3(kThreads), 0, stream,
                      reinterpret_cast<const PartCopy*>(parts_.data()),
                      reinterpret_cast<const int*>(part_of_tile_.data()));
}

absl::StatusOr<const void*> DeviceWeights::Get(const WeightSource& weight,
                                               const WeightSource& source, DType dtype,
                                               int64_t columns) {
  const bool padded = columns > source.width();
  if (dtype == DType::kF32 && source.parts.size() == 1 && !padded) return source.parts[0];
  auto& copies = copies_[weight];
  for (const auto& copy : copies) {
    const bool same = !(copy->source < source) && !(source < copy->source);
    if (same && copy->dtype == dtype && copy->columns == columns) return copy->memory.data();
  }
  auto copy = std::make_unique<Copy>(Copy{source, dtype, columns, {}, false});
  VITSCALE_ASSIGN_OR_RETURN(copy->memory,
                            DeviceMemory::Allocate(source.rows * columns * DTypeBytes(dtype),
                                                   "compute copy of a weight"));
  copies.push_back(std::move(copy));
  changed_ = true;
  return copies.back()->memory.data();
}

absl::StatusOr<const void*> DeviceWeights::Weight(const WeightParts& weight, DType dtype,
                                                  int64_t columns, const CudaOpBuilder& builder) {
  const WeightSource source = Bind(weight, builder);
  return Get(source, source, dtype, columns);
}

absl::StatusOr<const void*> DeviceWeights::Bias(const WeightParts& bias, const WeightParts& weight,
                                                DType dtype, int64_t columns,
                                                const CudaOpBuilder& builder) {
  return Get(Bind(weight, builder), Bind(bias, builder), dtype, columns);
}

std::shared_ptr<const CopyTable> DeviceWeights::TableOf(const std::vector<WeightParts>& weights,
                                                        const CudaOpBuilder& builder) {
  auto table = std::make_shared<CopyTable>();
  Table& entry = tables_.emplace_back();
  for (const WeightParts& weight : weights) entry.weights.push_back(Bind(weight, builder));
  entry.table = table;
  changed_ = true;
  return table;
}

// The parts of the copies of `weights` that `chosen` names.
template <typename Chosen>
std::vector<PartCopy> DeviceWeights::PartsOf(const std::vector<WeightSource>& weights,
                                             const Chosen& chosen) {
  std::vector<PartCopy> parts;
  for (const WeightSource& weight : weights) {
    const auto found = copies_.find(weight);
    if (found == copies_.end()) continue;
    for (const auto& copy : found->second) {
      if (!chosen(*copy)) continue;
      const WeightSource& source = copy->source;
      std::byte* to = copy->memory.data();
      for (size_t i = 0; i < source.parts.size(); ++i) {
        parts.push_back({source.parts[i], to, source.rows * source.widths[i], source.widths[i],
                         copy->columns, 0, copy->dtype == DType::kBf16});
        to += source.widths[i] * DTypeBytes(copy->dtype);
      }
    }
  }
  return parts;
}

// Copying writes no padding.
absl::Status DeviceWeights::ClearNew(const CudaStream& stream) {
  for (const auto& [weight, copies] : copies_) {
    for (const auto& copy : copies) {
      if (copy->made || copy->columns == copy->source.width()) continue;
      VITSCALE_RETURN_IF_ERROR(
          CudaStatus(cudaMemsetAsync(copy->memory.data(), 0,
                                     static_cast<size_t>(copy->memory.bytes()), stream.get()),
                     "clear the padding of a weight"));
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceWeights::FinishPrepare(HostStaging& staging, const CudaStream& stream) {
  if (!std::exchange(changed_, false)) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(stream.Synchronize());  // tables that are replaced may be on their way
  const auto gone = [](const Table& entry) { return entry.table.expired(); };
  tables_.erase(std::remove_if(tables_.begin(), tables_.end(), gone), tables_.end());
  for (const Table& entry : tables_) {
    const auto all = [](const Copy&) { return true; };
    VITSCALE_RETURN_IF_ERROR(
        entry.table.lock()->Fill(PartsOf(entry.weights, all), staging, stream));
  }
  std::vector<WeightSource> every;
  for (const auto& [weight, copies] : copies_) every.push_back(weight);
  any_new_ = true;
  VITSCALE_RETURN_IF_ERROR(ClearNew(stream));
  const auto never_made = [](const Copy& copy) { return !copy.made; };
  return never_made_.Fill(PartsOf(every, never_made), staging, stream);
}

absl::Status DeviceWeights::MakeNew(const RunContext& context) {
  if (!std::exchange(any_new_, false)) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(never_made_.Launch(context.stream));
  for (auto& [weight, copies] : copies_) {
    for (auto& copy : copies) copy->made = true;
  }
  return absl::OkStatus();
}

int64_t DeviceWeights::bytes() const {
  int64_t bytes = 0;
  for (const auto& [weight, copies] : copies_) {
    for (const auto& copy : copies) bytes += copy->memory.bytes();
  }
  return bytes;
}

absl::Status CheckKernelsFit(const Device& device) {
  cudaFuncAttributes attributes{};
  const cudaError_t error =
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(CopyTiles));
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    (void)cudaGetLastError();
    return absl::FailedPreconditionError(
        absl::StrCat(device.name, " is sm_", device.limits.sm,
                     ", this build has no kernels for it (CMAKE_CUDA_ARCHITECTURES)"));
  }
  return CudaStatus(error, "look for kernels");
}

CudaOpOr MakeCudaOp(const PrepareWeightsArgs& args, CudaOpBuilder& builder) {
  auto table = builder.weights().TableOf(args.weights, builder);
  return MakeOp("one launch over all tensors",
                [table](const RunContext& context) { return table->Launch(context.stream); });
}

}  // namespace vitscale::cuda
