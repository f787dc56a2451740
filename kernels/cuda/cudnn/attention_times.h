// How long attention of a shape takes by our own kernel and by cuDNN, as measured: kept in a file
// for each card, driver and library version, so that a machine measures once and a run that goes on
// chooses as it did before.

#ifndef KERNELS_CUDA_CUDNN_ATTENTION_TIMES_H_
#define KERNELS_CUDA_CUDNN_ATTENTION_TIMES_H_

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/cudnn/attention_operands.h"

namespace vitscale::cuda {

struct AttentionSeconds {
  double own = 0, cudnn = 0;
  bool CudnnIsFaster() const { return cudnn < own; }
};

class AttentionTimes {
 public:
  // `machine`: "NVIDIA H100 80GB HBM3, driver 580.159.04, cuDNN 9.19.0".
  explicit AttentionTimes(std::string machine) : machine_(std::move(machine)) {}
  std::string DefaultPath() const;  // in the state directory; one file per machine

  std::optional<AttentionSeconds> Find(const AttentionSize& size) const;
  void Add(const AttentionSize& size, const AttentionSeconds& seconds) { times_[size] = seconds; }

  // Adds what the file has and this does not. A file of another machine and lines that make no
  // sense add nothing; a missing file is OK.
  absl::Status Load(const std::string& path);
  // Writes all, over what other processes wrote meanwhile.
  absl::Status Save(const std::string& path);

 private:
  void AddLine(absl::string_view line);

  std::string machine_;
  std::map<AttentionSize, AttentionSeconds> times_;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_CUDNN_ATTENTION_TIMES_H_
