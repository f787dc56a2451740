// Who may include whom: the table that keeps the layers apart, and the folders that outside
// libraries stay in.
//
//   kernels/base <- kernels <- worker/model, worker/plan <- engine <- worker/trainer
//                   proto/spec <- worker/config <- engine, client, server
//                   worker/checkpoint, worker/weights <- engine, client
//                   worker/link <- worker/agent (the only part of worker/ with gRPC)

#ifndef TESTS_ARCHITECTURE_INCLUDE_RULES_H_
#define TESTS_ARCHITECTURE_INCLUDE_RULES_H_

#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace vitscale {

// Where a file of ours, or an included header, belongs. Outside headers are kOutside.
enum class Layer {
  kBase,         // kernels/base
  kProgram,      // what a model is built from: kernels/{backend,tensor,program,ops}.h and such
  kFactory,      // kernels/backend_factory.h
  kKernels,      // the rest of kernels/: what both backends share
  kCpu,          // kernels/cpu
  kCuda,         // kernels/cuda: a plugin, so nothing includes it
  kMessages,     // generated messages and protobuf itself
  kRpc,          // generated services, gRPC, proto/rpc
  kMetrics,      // proto/metrics
  kSpec,         // proto/spec
  kModel,        // worker/model, worker/plan
  kJobStructs,   // worker/data/data_config.h: a plain struct that a JobConfig holds
  kConfig,       // worker/config
  kLink,         // worker/link
  kCard,         // worker/card: what agents and the engine know of a card
  kFileFormats,  // worker/checkpoint, worker/weights: files of tensors; no backend, no engine
  kEngine,       // the rest of worker/ but agent/
  kAgent,
  kServer,
  kClient,
  kTests,
  kOutside,
};

// By path from the root of the tree, or as written between the quotes of an #include.
Layer LayerOf(absl::string_view path);
const char* LayerName(Layer layer);

// Layers that a file of this layer may include; everything for tests.
const std::set<Layer>& MayInclude(Layer layer);

struct LibraryRule {
  std::string prefix;                // of the include path
  std::vector<std::string> folders;  // of our files that may include it
};
// One wrapper per library: where its exceptions are caught and its types end.
const std::vector<LibraryRule>& LibraryRules();

// Headers through which a deterministic core could see a clock, thread, random device, socket, file
// or store.
bool IsForbiddenInCore(absl::string_view include);
const std::vector<std::string>& CoreFolders();

}  // namespace vitscale

#endif  // TESTS_ARCHITECTURE_INCLUDE_RULES_H_
