// The JSON header of a safetensors file, to and from the list of tensors. No files here: this is
// what a fuzzer feeds.

#ifndef WORKER_CHECKPOINT_TENSOR_HEADER_H_
#define WORKER_CHECKPOINT_TENSOR_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/checkpoint/tensor_file.h"

namespace vitscale {

// JSON padded by spaces so that 8 bytes of length and the header together are a multiple of
// kTensorAlignment. `tensors` lie one after the other in the given order; their `offset` and
// `bytes` are taken as they are.
std::string MakeTensorHeader(const std::vector<TensorEntry>& tensors,
                             const std::map<std::string, std::string>& metadata);

struct TensorHeader {
  std::vector<TensorEntry> tensors;  // in file order; `offset` counts from the start of the data
  std::map<std::string, std::string> metadata;
};

// `data_bytes`: what follows the header in the file. Errors: see TensorFileReader::Open.
absl::StatusOr<TensorHeader> ParseTensorHeader(absl::string_view json, int64_t data_bytes);

}  // namespace vitscale

#endif  // WORKER_CHECKPOINT_TENSOR_HEADER_H_
