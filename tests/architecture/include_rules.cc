#include "tests/architecture/include_rules.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"

namespace vitscale {
namespace {

using enum Layer;

struct PathRule {
  const char* prefix;
  Layer layer;
};
// The first that fits.
constexpr PathRule kPathRules[] = {
    {"tests/", kTests},
    {"kernels/base/", kBase},
    {"kernels/backend.h", kProgram},
    {"kernels/tensor.h", kProgram},
    {"kernels/program.h", kProgram},
    {"kernels/ops.h", kProgram},
    {"kernels/factored_shape.h", kProgram},
    {"kernels/backend_factory.h", kFactory},
    {"kernels/communicator.h", kFactory},
    {"kernels/cpu/", kCpu},
    {"kernels/cuda/", kCuda},
    {"kernels/", kKernels},
    {"proto/spec/", kSpec},
    {"proto/rpc/", kRpc},
    {"proto/metrics/", kMetrics},
    {"worker/model/", kModel},
    {"worker/plan/", kModel},
    {"worker/data/data_config.h", kJobStructs},
    {"worker/config/", kConfig},
    {"worker/link/", kLink},
    {"worker/card/", kCard},
    {"worker/agent/", kAgent},
    {"worker/checkpoint/", kFileFormats},
    {"worker/weights/", kFileFormats},
    {"worker/", kEngine},
    {"server/", kServer},
    {"client/", kClient},
    {"grpc/", kRpc},
    {"grpcpp/", kRpc},
    {"google/protobuf/", kMessages},
};

const std::map<Layer, std::set<Layer>>& Table() {
  static const auto* table = new std::map<Layer, std::set<Layer>>{
      {kBase, {kBase}},
      {kProgram, {kBase, kProgram}},
      {kFactory, {kBase, kProgram}},
      {kKernels, {kBase, kProgram, kFactory, kKernels, kCpu}},
      {kCpu, {kBase, kProgram, kFactory, kKernels, kCpu}},
      {kCuda, {kBase, kProgram, kFactory, kKernels, kCuda}},
      {kSpec, {kBase, kMessages, kSpec}},
      {kRpc, {kBase, kMessages, kRpc}},
      {kMetrics, {kBase, kMessages, kMetrics}},
      {kModel, {kBase, kProgram, kModel}},
      {kJobStructs, {}},
      {kConfig, {kBase, kMessages, kSpec, kModel, kJobStructs, kConfig}},
      {kLink, {kBase, kProgram, kMessages, kModel, kConfig, kJobStructs, kLink}},
      {kCard, {kBase, kCard}},
      {kFileFormats, {kBase, kProgram, kModel, kLink, kFileFormats}},
      {kEngine,
       {kBase, kProgram, kFactory, kModel, kJobStructs, kConfig, kLink, kCard, kFileFormats,
        kEngine}},
      {kAgent, {kBase, kMessages, kRpc, kMetrics, kSpec, kLink, kCard, kAgent}},
      {kServer, {kBase, kMessages, kRpc, kMetrics, kSpec, kModel, kJobStructs, kConfig, kServer}},
      {kClient,
       {kBase, kMessages, kRpc, kSpec, kModel, kJobStructs, kConfig, kFileFormats, kClient}},
  };
  return *table;
}

}  // namespace

Layer LayerOf(absl::string_view path) {
  if (absl::EndsWith(path, ".grpc.pb.h")) return kRpc;
  if (absl::EndsWith(path, ".pb.h")) return kMessages;
  for (const PathRule& rule : kPathRules) {
    if (absl::StartsWith(path, rule.prefix)) return rule.layer;
  }
  return kOutside;
}

const char* LayerName(Layer layer) {
  static constexpr const char* kNames[] = {"kernels/base",
                                           "kernels' program headers",
                                           "kernels' factory",
                                           "kernels",
                                           "kernels/cpu",
                                           "kernels/cuda",
                                           "proto messages",
                                           "gRPC",
                                           "proto/metrics",
                                           "proto/spec",
                                           "worker/model, worker/plan",
                                           "worker/data/data_config.h",
                                           "worker/config",
                                           "worker/link",
                                           "worker/card",
                                           "worker/checkpoint, worker/weights",
                                           "the engine",
                                           "worker/agent",
                                           "server",
                                           "client",
                                           "tests",
                                           "outside"};
  return kNames[static_cast<int>(layer)];
}

const std::set<Layer>& MayInclude(Layer layer) {
  static const auto* none = new std::set<Layer>;
  const auto found = Table().find(layer);
  return found == Table().end() ? *none : found->second;
}

const std::vector<LibraryRule>& LibraryRules() {
  static const auto* rules = new std::vector<LibraryRule>{
      {"sqlite3", {"server/store/"}},
      {"gloo/", {"worker/collective/"}},
      {"oneapi/", {"kernels/cpu/"}},
      {"dnnl", {"kernels/cpu/"}},
      {"cuda", {"kernels/cuda/"}},
      {"cublas", {"kernels/cuda/"}},
      {"cudnn", {"kernels/cuda/"}},
      {"nccl", {"kernels/cuda/"}},
      {"yaml-cpp/", {"proto/spec/"}},
      {"zlib", {"worker/data/"}},
      {"jpeglib", {"worker/data/image/", "worker/bench/"}},
      {"jerror", {"worker/data/image/"}},
      {"png.h", {"worker/data/image/"}},
      {"webp/", {"worker/data/image/"}},
      {"archive", {"worker/weights/"}},
      {"lapacke", {"worker/eval/"}},
      {"cblas", {"worker/eval/"}},
      {"civetweb", {"server/metrics/"}},
      {"CivetServer", {"server/metrics/"}},
      {"prometheus/", {"proto/metrics/", "server/metrics/", "worker/agent/"}},
      {"google/protobuf/",
       {"proto/", "server/", "client/", "worker/agent/", "worker/config/", "worker/link/"}},
  };
  return *rules;
}

const std::vector<std::string>& CoreFolders() {
  static const auto* folders =
      new std::vector<std::string>{"server/core/", "worker/agent/core/", "worker/trainer/core/"};
  return *folders;
}

bool IsForbiddenInCore(absl::string_view include) {
  static constexpr const char* kForbidden[] = {"thread",
                                               "mutex",
                                               "condition_variable",
                                               "future",
                                               "chrono",
                                               "random",
                                               "fstream",
                                               "filesystem",
                                               "ctime",
                                               "time.h",
                                               "unistd.h",
                                               "fcntl.h",
                                               "poll.h",
                                               "pthread.h",
                                               "sqlite3.h",
                                               "absl/time/clock.h",
                                               "kernels/base/clock.h",
                                               "kernels/base/files.h",
                                               "kernels/base/net.h",
                                               "kernels/base/process_stats.h",
                                               "kernels/base/unique_fd.h"};
  const bool named = std::any_of(std::begin(kForbidden), std::end(kForbidden),
                                 [&](const char* name) { return include == name; });
  return named || absl::StartsWith(include, "sys/") ||
         absl::StartsWith(include, "absl/synchronization/") ||
         absl::StartsWith(include, "server/store/") || LayerOf(include) == kRpc;
}

}  // namespace vitscale
