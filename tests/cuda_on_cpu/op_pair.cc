#include "tests/cuda_on_cpu/op_pair.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda_on_cpu/guards.h"
#include "tests/cuda_on_cpu/schedule.h"

namespace vitscale {
namespace {

constexpr uint64_t kOtherSchedule = 0x5eed;

}  // namespace

BackendMaker CudaBackendMaker(DType compute) {
  BackendOptions options;
  options.device = "cuda:0";
  options.bf16 = compute == DType::kBf16;
  return [options] { return cuda::CreateCudaBackend(options); };
}

OpPair::OpPair(DType compute)
    : cpu_(Variant{AllInstructionSets().back(), compute}), cuda_(CudaBackendMaker(compute)) {
  cuda_.set_arena_written(&cuda_on_cpu::GuardArena);
}

TensorView OpPair::Input(absl::string_view name, DType dtype, Shape shape, const Doubles& values,
                         Arena arena) {
  (void)cpu_.Input(name, dtype, shape, values, arena);
  views_.push_back(cuda_.Input(name, dtype, std::move(shape), values, arena));
  return views_.back();
}

TensorView OpPair::Output(absl::string_view name, DType dtype, Shape shape, Arena arena) {
  (void)cpu_.Output(name, dtype, shape, arena);
  views_.push_back(cuda_.Output(name, dtype, std::move(shape), arena));
  return views_.back();
}

absl::Status OpPair::RunProgram(const Program& program, StepScalars scalars) {
  VITSCALE_RETURN_IF_ERROR(Annotate(cpu_.RunProgram(program, scalars), "cpu"));
  VITSCALE_RETURN_IF_ERROR(Annotate(cuda_.RunProgram(program, scalars), "cuda"));
  return Annotate(RunCudaAgain(program, scalars), "cuda");
}

absl::Status OpPair::RunCudaAgain(const Program& program, StepScalars scalars) {
  std::vector<std::vector<std::byte>> first;
  for (const TensorView& view : views_) first.push_back(cuda_.Bytes(view));
  const cuda_on_cpu::ScopedSchedule other(kOtherSchedule);
  VITSCALE_RETURN_IF_ERROR(cuda_.RunProgram(program, scalars));
  for (size_t i = 0; i < views_.size(); ++i) {
    if (cuda_.Bytes(views_[i]) != first[i]) {
      return absl::InternalError(absl::StrCat(views_[i].name, " differs from run to run"));
    }
  }
  return absl::OkStatus();
}

std::string OpPair::variant() const {
  if (variants().empty()) return "";
  const std::string& line = variants().front();
  const size_t colon = line.find(": ");
  return colon == std::string::npos ? line : line.substr(colon + 2);
}

void OpPair::ExpectNear(const TensorView& view, double relative, double absolute) const {
  vitscale::ExpectNear(Cuda(view), Cpu(view), relative, absolute, view.name);
}

void OpPair::ExpectWithin(const TensorView& view, const Doubles& bound) const {
  vitscale::ExpectWithin(Cuda(view), Cpu(view), bound, view.name);
}

void OpPair::ExpectSameBits(const TensorView& view) const {
  EXPECT_TRUE(cuda_.Bytes(view) == cpu_.Bytes(view)) << view.name << " differs from the CPU's bits";
}

}  // namespace vitscale
