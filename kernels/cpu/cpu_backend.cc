#include "kernels/cpu/cpu_backend.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/executor.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/packed_weights.h"

namespace vitscale::cpu {
namespace {

constexpr int kThreadsMax = 1024;

int AllowedCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

std::string CpuName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "x86-64";
}

absl::StatusOr<Isa> ChooseIsa(const std::string& wanted) {
  for (int i = 0; i < kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (wanted.empty() ? isa != BestIsa() : wanted != IsaName(isa)) continue;
    if (IsaSupported(isa)) return isa;
    return absl::InvalidArgumentError(absl::StrCat(
        "instruction set is ", IsaName(isa), ", want at most ",
        IsaSupported(BestIsa()) ? IsaName(BestIsa()) : "a machine with AVX2, FMA and F16C"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("instruction set is '", wanted, "', want avx2, avx512 or avx512_bf16"));
}

using Arenas = std::array<Memory, kArenaCount>;

// Binds the ops of one program one after the other.
class Builder : public CpuOpBuilder {
 public:
  Builder(Isa isa, int threads, const Arenas& arenas, PackedWeights& weights, CpuProgram& program)
      : isa_(isa), threads_(threads), arenas_(arenas), weights_(weights), program_(program) {}

  Isa isa() const override { return isa_; }
  int threads() const override { return threads_; }
  int64_t batch() const override { return batch_; }
  int64_t panel_items() const override { return panel_items_; }
  PackedWeights& weights() override { return weights_; }
  const Op* next() const override { return next_; }
  void LeaveRows(std::set<WeightKey> weights) override { rows_left_ = std::move(weights); }
  std::set<WeightKey> TakeLeftRows() override { return std::exchange(rows_left_, {}); }
  void RequestScratch(int64_t bytes) override {
    program_.scratch_bytes = std::max(program_.scratch_bytes, bytes);
  }

  void BeginGroup(int64_t batch, int64_t panel_items) {
    batch_ = batch;
    panel_items_ = panel_items;
  }
  void EndGroup() { BeginGroup(0, 1); }
  void SetNext(const Op* next) { next_ = next; }
  absl::Status status() const { return status_; }

 protected:
  void* Address(const TensorView& view) const override {
    return arenas_[static_cast<int>(view.arena)].data() + view.offset;
  }
  void* ReserveBytes(int64_t bytes) override {
    absl::StatusOr<cpu::Memory> memory =
        cpu::Memory::Allocate(AlignUp(std::max<int64_t>(bytes, 1)), "partial sums");
    if (!memory.ok()) {
      status_.Update(memory.status());
      return nullptr;
    }
    program_.reserved.push_back(*std::move(memory));
    return program_.reserved.back().data();
  }

 private:
  const Isa isa_;
  const int threads_;
  const Arenas& arenas_;
  PackedWeights& weights_;
  CpuProgram& program_;
  int64_t batch_ = 0;
  int64_t panel_items_ = 1;
  const Op* next_ = nullptr;
  std::set<WeightKey> rows_left_;
  absl::Status status_;
};

void MaxRows(void* context, TensorView& view, bool /*written*/) {
  auto& rows = *static_cast<int64_t*>(context);
  // Weights and other arenas have no rows of images.
  if (view.arena == Arena::kActivations && view.shape.size() == 2)
    rows = std::max(rows, view.shape[0]);
}

// The tallest activation of the group that begins at `begin`.
int64_t GroupRows(Program& program, size_t begin) {
  int64_t rows = 0;
  for (size_t i = begin; i < program.ops().size(); ++i) {
    Op& op = program.mutable_ops()[i];
    if (std::holds_alternative<PanelEndArgs>(op)) break;
    VisitOperands(op, &rows, MaxRows);
  }
  return rows;
}

// Whether an op outside groups can share a step with the ops before it.
bool JoinsLast(const std::vector<Step>& steps, const CpuOp& op) {
  return op.independent() && !steps.empty() && steps.back().kind == Step::Kind::kOp &&
         steps.back().ops.back()->independent();
}

class CpuBackend : public Backend {
 public:
  CpuBackend(BackendInfo info, Isa isa, int threads, bool packed_per_use)
      : info_(std::move(info)), isa_(isa), pool_(threads), weights_(isa, packed_per_use) {}

  BackendInfo info() const override { return info_; }
  absl::Status Run(PreparedProgram& program, const StepScalars& scalars, MarkerSink* sink) override;
  absl::Span<std::byte> HostBytes(Arena arena) override;
  BackendMemory memory() const override;

 protected:
  absl::Status DoAllocate(const ArenaBytes& bytes) override;
  absl::StatusOr<std::unique_ptr<PreparedProgram>> DoPrepare(Program program) override;
  absl::Status DoWrite(const TensorView& to, absl::Span<const std::byte> from) override;
  absl::Status DoRead(const TensorView& from, absl::Span<std::byte> to) override;

 private:
  std::byte* Address(const TensorView& view) const {
    return arenas_[static_cast<int>(view.arena)].data() + view.offset;
  }
  absl::Status AddSteps(Program& program, Builder& builder, CpuProgram& prepared);
  absl::Status GrowScratch(int64_t bytes);

  const BackendInfo info_;
  const Isa isa_;
  ThreadPool pool_;
  Arenas arenas_;
  PackedWeights weights_;
  std::vector<Memory> scratch_;  // one per thread, for whatever program runs
  int64_t reserved_bytes_ = 0;   // by all programs ever prepared
};

absl::Status CpuBackend::DoAllocate(const ArenaBytes& bytes) {
  Arenas arenas;
  for (int i = 0; i < kArenaCount; ++i) {
    VITSCALE_ASSIGN_OR_RETURN(arenas[i],
                              Memory::Allocate(bytes[i], ArenaName(static_cast<Arena>(i))));
  }
  arenas_ = std::move(arenas);
  return absl::OkStatus();
}

absl::Status CpuBackend::AddSteps(Program& program, Builder& builder, CpuProgram& prepared) {
  bool in_group = false;
  for (size_t i = 0; i < program.ops().size(); ++i) {
    const Op& op = program.ops()[i];
    builder.SetNext(i + 1 < program.ops().size() ? &program.ops()[i + 1] : nullptr);
    if (const auto* begin = std::get_if<PanelBeginArgs>(&op)) {
      if (auto packing = weights_.BeginUses(); packing != nullptr)
        prepared.steps.emplace_back().ops.push_back(std::move(packing));
      Step& step = prepared.steps.emplace_back();
      step.kind = Step::Kind::kGroup;
      step.batch = begin->batch;
      step.panel_items = PanelItems(begin->batch, GroupRows(program, i) / begin->batch);
      builder.BeginGroup(step.batch, step.panel_items);
      in_group = true;
    } else if (std::holds_alternative<PanelEndArgs>(op)) {
      builder.EndGroup();
      in_group = false;
    } else if (const auto* ready = std::get_if<GradientsReadyArgs>(&op)) {
      Step& step = prepared.steps.emplace_back();
      step.kind = Step::Kind::kGradientsReady;
      step.bucket = ready->bucket;
    } else if (const auto* phase = std::get_if<PhaseArgs>(&op)) {
      Step& step = prepared.steps.emplace_back();
      step.kind = Step::Kind::kPhase;
      step.phase = phase->name;
    } else {
      std::unique_ptr<CpuOp> packing = in_group ? nullptr : weights_.BeginUses();
      CpuOpOr bound = std::visit(
          [&](const auto& args) -> CpuOpOr {
            if constexpr (requires { MakeCpuOp(args, builder); }) return MakeCpuOp(args, builder);
            return absl::InternalError("markers are no ops");
          },
          op);
      VITSCALE_RETURN_IF_ERROR(Annotate(bound.status(), absl::StrCat("op ", i, " ", OpName(op))));
      VITSCALE_RETURN_IF_ERROR(builder.status());
      builder.RequestScratch(weights_.use_blob_bytes());
      if (packing != nullptr && packing->phases() > 0)
        prepared.steps.emplace_back().ops.push_back(std::move(packing));
      const bool joins = in_group || JoinsLast(prepared.steps, **bound);
      if (!joins) prepared.steps.emplace_back();
      prepared.steps.back().ops.push_back(*std::move(bound));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PreparedProgram>> CpuBackend::DoPrepare(Program program) {
  auto prepared = std::make_unique<CpuProgram>();
  Builder builder(isa_, pool_.size(), arenas_, weights_, *prepared);
  VITSCALE_RETURN_IF_ERROR(AddSteps(program, builder, *prepared));
  VITSCALE_RETURN_IF_ERROR(GrowScratch(prepared->scratch_bytes));
  for (const Memory& reserved : prepared->reserved) reserved_bytes_ += reserved.bytes();
  return std::unique_ptr<PreparedProgram>(std::move(prepared));
}

// Programs run one at a time, so that they share it.
absl::Status CpuBackend::GrowScratch(int64_t bytes) {
  scratch_.resize(pool_.size());
  for (Memory& scratch : scratch_) {
    if (scratch.bytes() >= bytes) continue;
    VITSCALE_ASSIGN_OR_RETURN(scratch, Memory::Allocate(AlignUp(bytes), "scratch of a thread"));
  }
  return absl::OkStatus();
}

BackendMemory CpuBackend::memory() const {
  BackendMemory memory{.compute_weights = weights_.bytes(), .workspace = reserved_bytes_};
  for (const Memory& scratch : scratch_) memory.workspace += scratch.bytes();
  return memory;
}

absl::Status CpuBackend::Run(PreparedProgram& program, const StepScalars& scalars,
                             MarkerSink* sink) {
  VITSCALE_RETURN_IF_ERROR(weights_.PackNew());
  Execute(static_cast<const CpuProgram&>(program), scratch_, pool_, scalars, sink);
  return absl::OkStatus();
}

absl::Status CpuBackend::DoWrite(const TensorView& to, absl::Span<const std::byte> from) {
  std::memcpy(Address(to), from.data(), from.size());
  return absl::OkStatus();
}

absl::Status CpuBackend::DoRead(const TensorView& from, absl::Span<std::byte> to) {
  std::memcpy(to.data(), Address(from), to.size());
  return absl::OkStatus();
}

absl::Span<std::byte> CpuBackend::HostBytes(Arena arena) {
  const Memory& memory = arenas_[static_cast<int>(arena)];
  return {memory.data(), static_cast<size_t>(memory.bytes())};
}

BackendInfo Describe(Isa isa, int threads) {
  BackendInfo info;
  info.name = "cpu";
  info.device = CpuName();
  info.instruction_set = IsaName(isa);
  info.bf16_matmul = isa == Isa::kAvx512Bf16;
  info.threads = threads > 0 ? threads : AllowedCpus();
  info.libraries = DnnlVersion();
  return info;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options) {
  if (options.threads < 0 || options.threads > kThreadsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.threads, ", want 0 to ", kThreadsMax));
  }
  VITSCALE_ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(options.instruction_set));
  (void)DnnlServes(isa);  // the first backend decides what oneDNN may use
  BackendInfo info = Describe(isa, options.threads);
  const int threads = info.threads;
  return std::make_unique<CpuBackend>(std::move(info), isa, threads, options.packed_per_use);
}

BackendInfo DescribeCpuBackend(const BackendOptions& options) {
  const absl::StatusOr<Isa> isa = ChooseIsa(options.instruction_set);
  return Describe(isa.ok() ? *isa : BestIsa(), options.threads);
}

}  // namespace vitscale::cpu
