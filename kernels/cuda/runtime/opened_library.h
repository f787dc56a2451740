// Libraries of NVIDIA's that are opened when they are first needed and never linked, so that the
// plugin starts where they are missing. Never closed: they have threads of their own.

#ifndef KERNELS_CUDA_RUNTIME_OPENED_LIBRARY_H_
#define KERNELS_CUDA_RUNTIME_OPENED_LIBRARY_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale::cuda {

// 22809 is "2.28.9", as NCCL and cuDNN number themselves.
std::string VersionText(int64_t code);

class OpenedLibrary {
 public:
  // `name` and `least` (its first version that serves) are for errors. FAILED_PRECONDITION with the
  // loader's words: "NCCL cannot be opened: …".
  static absl::StatusOr<OpenedLibrary> Open(std::string name, std::string file, int64_t least);

  // FAILED_PRECONDITION: "cuDNN: libcudnn.so.9 has no cudnnBackendExecute, want cuDNN 9.13.0 or
  // later".
  template <typename Function>
  absl::Status Find(const char* symbol, Function& function) const {
    function = reinterpret_cast<Function>(Address(symbol));
    return function != nullptr ? absl::OkStatus() : Missing(symbol);
  }

 private:
  OpenedLibrary(std::string name, std::string file, int64_t least, void* handle)
      : name_(std::move(name)), file_(std::move(file)), least_(least), handle_(handle) {}
  void* Address(const char* symbol) const;
  absl::Status Missing(const char* symbol) const;

  std::string name_, file_;
  int64_t least_;
  void* handle_;
};

// FAILED_PRECONDITION: "NCCL is 2.19.3, want 2.25.0 or later".
absl::Status CheckVersion(absl::string_view name, int64_t version, int64_t least);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_RUNTIME_OPENED_LIBRARY_H_
