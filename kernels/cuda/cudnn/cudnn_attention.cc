#include "kernels/cuda/cudnn/cudnn_attention.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/cuda/cudnn/attention_trial.h"
#include "kernels/cuda/cudnn/cudnn_library.h"
#include "kernels/cuda/cudnn/sdpa_graph.h"
#include "kernels/cuda/runtime/cuda_status.h"
#include "kernels/cuda/runtime/device.h"
#include "kernels/cuda/runtime/memory.h"

namespace vitscale::cuda {
namespace {

// Plans count no bytes for cuDNN: what a program takes for it must not decide whether it fits.
constexpr int64_t kWorkspaceBytesMost = int64_t{4} << 20;
constexpr int64_t kAlignment = 256;

struct Choice {
  std::shared_ptr<const SdpaPlan> plan;  // null: our own
  std::string why;                       // why not cuDNN, or how much faster it is
};

std::string Microseconds(double seconds) { return absl::StrFormat("%.1f us", seconds * 1e6); }

// cuDNN on one device; lives as long as the process.
class Cudnn {
 public:
  static absl::StatusOr<std::unique_ptr<Cudnn>> Open(int device_index, const std::string& file);
  // The one of the calling thread's device, opened when it is first asked for.
  static absl::StatusOr<Cudnn*> OfThisDevice(const std::string& file);

  Choice Choose(const AttentionSize& size, const AttentionForward& own, CudnnUse use);
  absl::Status Run(const SdpaPlan& plan, const CudnnDescriptor& operands, cudaStream_t stream);
  const CudnnLibrary& library() const { return library_; }

 private:
  Cudnn(const CudnnLibrary& library, const Device& device, const std::string& machine)
      : library_(library), l2_bytes_(device.limits.l2_bytes), times_(machine) {}
  absl::StatusOr<Choice> Try(const AttentionSize& size, const AttentionForward& own, CudnnUse use);
  absl::StatusOr<AttentionSeconds> Time(const AttentionSize& size, const AttentionForward& own,
                                        const AttentionForward& other, AttentionTrial& trial);

  const CudnnLibrary library_;
  const int64_t l2_bytes_;
  cudnnHandle_t handle_ = nullptr;
  std::mutex handle_mutex_;  // one stream at a time
  std::unique_ptr<SdpaTarget> target_;
  std::mutex mutex_;  // guards what follows
  AttentionTimes times_;
  std::map<std::pair<AttentionSize, CudnnUse>, Choice> choices_;
};

absl::StatusOr<std::unique_ptr<Cudnn>> Cudnn::Open(int device_index, const std::string& file) {
  VITSCALE_ASSIGN_OR_RETURN(const Device device, FindDevice(device_index));
  VITSCALE_ASSIGN_OR_RETURN(const CudnnLibrary library, LoadCudnn(file));
  auto cudnn = std::unique_ptr<Cudnn>(new Cudnn(
      library, device,
      absl::StrCat(device.name, ", driver ", DriverVersion(), ", cuDNN ", library.version())));
  VITSCALE_RETURN_IF_ERROR(library.ToStatus(library.Create(&cudnn->handle_), "open cuDNN"));
  VITSCALE_ASSIGN_OR_RETURN(SdpaTarget target, TargetOfHandle(cudnn->library_, cudnn->handle_));
  cudnn->target_ = std::make_unique<SdpaTarget>(std::move(target));
  (void)cudnn->times_.Load(cudnn->times_.DefaultPath());  // what cannot be read is measured anew
  return cudnn;
}

absl::StatusOr<Cudnn*> Cudnn::OfThisDevice(const std::string& file) {
  static std::mutex mutex;
  static auto* opened =
      new std::map<std::pair<int, std::string>, absl::StatusOr<std::unique_ptr<Cudnn>>>;
  int index = 0;
  VITSCALE_RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&index), "ask which device is in use"));
  const std::lock_guard lock(mutex);
  auto [found, is_new] = opened->try_emplace({index, file}, absl::UnknownError("not opened"));
  if (is_new) {
    found->second = Open(index, file);
    if (!found->second.ok()) {
      VITSCALE_LOG(INFO) << "attention by our own kernels: " << found->second.status().message();
    }
  }
  VITSCALE_RETURN_IF_ERROR(found->second.status());
  return found->second->get();
}

absl::Status Cudnn::Run(const SdpaPlan& plan, const CudnnDescriptor& operands,
                        cudaStream_t stream) {
  const std::lock_guard lock(handle_mutex_);
  VITSCALE_RETURN_IF_ERROR(library_.ToStatus(library_.SetStream(handle_, stream), "take a stream"));
  return plan.Run(library_, handle_, operands);
}

absl::StatusOr<AttentionSeconds> Cudnn::Time(const AttentionSize& size, const AttentionForward& own,
                                             const AttentionForward& other, AttentionTrial& trial) {
  if (const auto known = times_.Find(size); known.has_value()) return *known;
  AttentionSeconds seconds;
  VITSCALE_ASSIGN_OR_RETURN(seconds.own, trial.MedianSeconds(own));
  VITSCALE_ASSIGN_OR_RETURN(seconds.cudnn, trial.MedianSeconds(other));
  times_.Add(size, seconds);
  if (const absl::Status saved = times_.Save(times_.DefaultPath()); !saved.ok()) {
    VITSCALE_LOG(WARNING) << "attention is measured again next time: " << saved.message();
  }
  return seconds;
}

absl::StatusOr<Choice> Cudnn::Try(const AttentionSize& size, const AttentionForward& own,
                                  CudnnUse use) {
  VITSCALE_ASSIGN_OR_RETURN(SdpaPlan made,
                            SdpaPlan::Create(library_, size, *target_, kWorkspaceBytesMost));
  const auto plan = std::make_shared<const SdpaPlan>(std::move(made));
  VITSCALE_ASSIGN_OR_RETURN(
      const DeviceMemory workspace,
      DeviceMemory::Allocate(plan->workspace_bytes(), "workspace of cuDNN's attention"));
  VITSCALE_ASSIGN_OR_RETURN(AttentionTrial trial, AttentionTrial::Create(size, l2_bytes_));
  const AttentionForward other = [&](const AttentionOperands& to, cudaStream_t stream) {
    absl::StatusOr<CudnnDescriptor> operands = plan->Bind(library_, to, workspace.data());
    return operands.ok() ? Run(*plan, *operands, stream) : operands.status();
  };
  VITSCALE_ASSIGN_OR_RETURN(const std::string disagreement, trial.Disagreement(own, other));
  if (!disagreement.empty()) return Choice{nullptr, disagreement};
  VITSCALE_ASSIGN_OR_RETURN(const AttentionSeconds seconds, Time(size, own, other, trial));
  const CudnnVerdict verdict = Decide(use, seconds);
  return Choice{verdict.take_cudnn ? plan : nullptr, verdict.why};
}

Choice Cudnn::Choose(const AttentionSize& size, const AttentionForward& own, CudnnUse use) {
  const std::lock_guard lock(mutex_);
  const auto [found, is_new] = choices_.try_emplace({size, use});
  if (!is_new) return found->second;
  const absl::StatusOr<Choice> choice = Try(size, own, use);
  found->second = choice.ok() ? *choice : Choice{nullptr, std::string(choice.status().message())};
  return found->second;
}

CudaOpOr MakeOwn(const std::string& name, const AttentionForward& own,
                 const AttentionOperands& operands) {
  return MakeOp(name, [=](const RunContext& context) { return own(operands, context.stream); });
}

// Where log_sum_exp is not kept cuDNN writes it all the same, so that both forms of an op have the
// same bits.
CudaOpOr MakeCudnn(Cudnn& cudnn, const Choice& choice, const AttentionSize& size,
                   AttentionOperands operands, CudaOpBuilder& builder) {
  const int64_t sums = operands.log_sum_exp != nullptr
                           ? 0
                           : AlignUp(size.rows() * size.heads * int64_t{sizeof(float)}, kAlignment);
  auto* scratch = static_cast<std::byte*>(builder.Scratch(sums + choice.plan->workspace_bytes()));
  if (sums > 0) operands.log_sum_exp = reinterpret_cast<float*>(scratch);
  VITSCALE_ASSIGN_OR_RETURN(CudnnDescriptor bound,
                            choice.plan->Bind(cudnn.library(), operands, scratch + sums));
  return MakeOp(absl::StrCat("cuDNN ", cudnn.library().version(), ": ", choice.why),
                [&cudnn, plan = choice.plan, bound = std::move(bound)](const RunContext& context) {
                  return cudnn.Run(*plan, bound, context.stream);
                });
}

}  // namespace

absl::StatusOr<CudnnSetting> ParseCudnnSetting(const char* value) {
  const absl::string_view text = value == nullptr || *value == '\0' ? "auto" : value;
  if (text == "auto") return CudnnSetting{CudnnUse::kIfFaster, kCudnnFile};
  if (text == "on") return CudnnSetting{CudnnUse::kIfRight, kCudnnFile};
  if (text == "off") return CudnnSetting{CudnnUse::kOff, ""};
  if (text.find('/') != text.npos) return CudnnSetting{CudnnUse::kIfFaster, std::string(text)};
  return absl::InvalidArgumentError(absl::StrCat(
      "VITSCALE_CUDNN is '", text, "', want auto, on, off or the file of a library, with a slash"));
}

CudnnVerdict Decide(CudnnUse use, const AttentionSeconds& seconds) {
  const std::string own = Microseconds(seconds.own), cudnn = Microseconds(seconds.cudnn);
  if (use == CudnnUse::kIfRight || (use == CudnnUse::kIfFaster && seconds.CudnnIsFaster())) {
    return {true, absl::StrCat(cudnn, ", our own ", own)};
  }
  return {false, absl::StrCat("it takes ", cudnn, ", this ", own)};
}

CudaOpOr MakeAttentionOp(const SelfAttentionArgs& args, CudaOpBuilder& builder,
                         const std::string& own_name, const AttentionForward& own) {
  const AttentionSize size{args.batch, args.tokens, args.heads, args.out.columns() / args.heads};
  const AttentionOperands operands{builder.Memory<const void>(args.qkv),
                                   builder.Memory<void>(args.out),
                                   builder.Memory<float>(args.log_sum_exp)};
  VITSCALE_ASSIGN_OR_RETURN(const CudnnSetting setting,
                            ParseCudnnSetting(std::getenv("VITSCALE_CUDNN")));
  if (setting.use == CudnnUse::kOff) return MakeOwn(own_name, own, operands);
  const auto without = [&](absl::string_view why) {
    return MakeOwn(absl::StrCat(own_name, ", not cuDNN: ", why), own, operands);
  };
  const absl::StatusOr<Cudnn*> cudnn = Cudnn::OfThisDevice(setting.file);
  if (!cudnn.ok()) return without(cudnn.status().message());
  const Choice choice = (*cudnn)->Choose(size, own, setting.use);
  if (choice.plan == nullptr) return without(choice.why);
  builder.NoteChoice(Hash64(absl::StrCat("cuDNN ", (*cudnn)->library().version())));
  return MakeCudnn(**cudnn, choice, size, operands, builder);
}

}  // namespace vitscale::cuda
