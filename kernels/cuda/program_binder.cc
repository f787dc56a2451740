#include "kernels/cuda/program_binder.h"

#include <algorithm>
#include <set>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {
namespace {

constexpr int64_t kAlignment = 256;  // what cudaMalloc gives, and cuBLASLt's kernels like best

// Binds every op twice: with no memory behind it to add up what is wanted, then to memory.
class Builder : public CudaOpBuilder {
 public:
  explicit Builder(const BinderResources& resources) : resources_(resources) {}

  const DeviceLimits& limits() const override { return resources_.device.limits; }
  DeviceWeights& weights() override { return resources_.weights; }
  Blas& blas() override { return resources_.blas; }
  void NoteChoice(uint64_t choice) override { choices_.insert(choice); }
  void* Scratch(int64_t bytes) override {
    scratch_bytes_ = std::max(scratch_bytes_, AlignUp(bytes, kAlignment));
    return At(scratch_at_);
  }

  // Memory for what the first round asked for; the second round gets it.
  absl::StatusOr<DeviceMemory> AllocateAndRestart();
  absl::Status status() const { return status_; }
  uint64_t choices() const;

 protected:
  void* Address(const TensorView& view) const override {
    return resources_.arenas[static_cast<int>(view.arena)].data() + view.offset;
  }
  void* ReserveBytes(int64_t bytes) override {
    const int64_t at = reserved_bytes_;
    reserved_bytes_ += AlignUp(bytes, kAlignment);
    return At(at);
  }
  const void* ConstantBytes(const void* values, int64_t bytes) override {
    void* memory = ReserveBytes(bytes);
    if (memory_ != nullptr) {
      status_.Update(resources_.staging.Write(
          static_cast<std::byte*>(memory),
          {static_cast<const std::byte*>(values), static_cast<size_t>(bytes)}, resources_.stream));
    }
    return memory;
  }

 private:
  // In the first round an address that nothing may touch, aligned like a real one.
  void* At(int64_t offset) const {
    const auto base =
        memory_ == nullptr ? uintptr_t{kAlignment} : reinterpret_cast<uintptr_t>(memory_);
    return reinterpret_cast<void*>(base + static_cast<uintptr_t>(offset));
  }

  const BinderResources& resources_;
  std::byte* memory_ = nullptr;
  int64_t reserved_bytes_ = 0, scratch_bytes_ = 0, scratch_at_ = 0;
  std::set<uint64_t> choices_;
  absl::Status status_;
};

absl::StatusOr<DeviceMemory> Builder::AllocateAndRestart() {
  const int64_t bytes = reserved_bytes_ + scratch_bytes_;
  VITSCALE_ASSIGN_OR_RETURN(DeviceMemory memory,
                            DeviceMemory::Allocate(bytes, "workspace of a program"));
  if (bytes > 0) {
    VITSCALE_RETURN_IF_ERROR(CudaStatus(
        cudaMemsetAsync(memory.data(), 0, static_cast<size_t>(bytes), resources_.stream.get()),
        "clear the workspace of a program"));
  }
  memory_ = memory.data();
  choices_.clear();
  scratch_at_ = std::exchange(reserved_bytes_, 0);
  return memory;
}

// Of the device too: kernels cut their sums by its size. Not of how often or in which order
// anything was chosen: a program that computes things again has the same bits.
uint64_t Builder::choices() const {
  const Device& device = resources_.device;
  uint64_t all = Hash64(absl::StrCat(device.name, " ", device.limits.multiprocessors));
  for (const uint64_t choice : choices_) all = CombineHash(all, choice);
  return choices_.empty() ? 0 : all;
}

CudaOpOr BindOp(const Op& op, Builder& builder) {
  return std::visit(
      [&](const auto& args) -> CudaOpOr {
        if constexpr (requires { MakeCudaOp(args, builder); }) return MakeCudaOp(args, builder);
        return nullptr;  // a marker, or a border of panels, which only a cache of the CPU's size
                         // needs
      },
      op);
}

bool IsMarker(const Op& op) {
  return std::holds_alternative<GradientsReadyArgs>(op) || std::holds_alternative<PhaseArgs>(op);
}

absl::StatusOr<std::vector<CudaStep>> BindOps(const Program& program, Builder& builder) {
  std::vector<CudaStep> steps;
  for (size_t i = 0; i < program.ops().size(); ++i) {
    const Op& op = program.ops()[i];
    CudaStep step{absl::StrCat("op ", i, " ", OpName(op)), nullptr, PhaseArgs{}, std::nullopt};
    CudaOpOr bound = BindOp(op, builder);
    VITSCALE_RETURN_IF_ERROR(Annotate(bound.status(), step.name));
    VITSCALE_RETURN_IF_ERROR(Annotate(builder.status(), step.name));
    step.op = *std::move(bound);
    if (step.op == nullptr && !IsMarker(op)) continue;
    if (IsMarker(op)) step.marker = op;
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace

std::vector<std::string> CudaProgram::variants() const {
  std::vector<std::string> variants;
  for (const CudaStep& step : steps) {
    if (step.op != nullptr) variants.push_back(absl::StrCat(step.name, ": ", step.op->variant()));
  }
  return variants;
}

absl::StatusOr<std::unique_ptr<CudaProgram>> BindProgram(const Program& program,
                                                         const BinderResources& resources) {
  auto bound = std::make_unique<CudaProgram>(resources.device);
  Builder builder(resources);
  VITSCALE_RETURN_IF_ERROR(BindOps(program, builder).status());
  VITSCALE_ASSIGN_OR_RETURN(bound->workspace, builder.AllocateAndRestart());
  VITSCALE_ASSIGN_OR_RETURN(bound->steps, BindOps(program, builder));
  bound->chosen = builder.choices();
  for (CudaStep& step : bound->steps) {
    if (step.op != nullptr) continue;
    VITSCALE_ASSIGN_OR_RETURN(step.reached, CudaEvent::Create());
  }
  return bound;
}

}  // namespace vitscale::cuda
