#include "tests/cuda_on_cpu/nccl_standin.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/fault.h"

// A loop that copies device memory must not become a call of memcpy: AddressSanitizer would look at
// memory that is hidden from the host.
#pragma GCC optimize("no-tree-loop-distribute-patterns")

namespace vitscale::cuda_on_cpu {
namespace {

// What a rank asks for; equal on all ranks.
struct Request {
  const char* kind;
  size_t bytes;  // of a rank's input
  ncclDataType_t type;
  bool operator==(const Request&) const = default;
};
std::string Describe(const Request& request) {
  return absl::StrCat(request.kind, " of ", request.bytes, " bytes of type ",
                      static_cast<int>(request.type));
}

struct Operation {
  Request request{};
  std::vector<const void*> inputs;  // by rank; null: it has not come yet
  bool computed = false;            // all have come
  std::vector<std::byte> result;
  int first = -1;                   // the rank that came first
  int taken = 0;                    // ranks that have their result
};

// The ranks of one id.
struct Clique {
  std::vector<std::shared_ptr<ncclComm>> ranks;  // null: not come yet
  std::vector<int> devices;
  bool connected = false;                    // all ranks were there at once
  std::map<uint64_t, Operation> operations;  // by number
};

std::unique_lock<std::recursive_mutex> Lock() {
  return std::unique_lock<std::recursive_mutex>(Device::Get().mutex());
}

}  // namespace
}  // namespace vitscale::cuda_on_cpu

using namespace vitscale::cuda_on_cpu;  // NOLINT: nccl.h names this type

struct ncclComm {
  std::shared_ptr<Clique> clique;
  int rank = 0;
  ncclResult_t error = ncclSuccess;
  std::string last_error;
  bool aborted = false;
  uint64_t operations = 0;         // asked for
  std::function<void()> unsettled;  // puts the last of them into its stream
  bool asked = false;              // how far it is, since then
};

namespace vitscale::cuda_on_cpu {
namespace {

// Of this process, under the lock of the device.
struct Registry {
  uint64_t ids = 0;
  std::map<std::string, std::shared_ptr<Clique>> cliques;  // by id; empty until the first rank
  std::map<ncclComm_t, std::shared_ptr<ncclComm>> alive;
  std::vector<ncclComm_t> in_order;
  std::string last_error;  // of calls without a communicator
  NcclCounts counts;
  std::atomic<int> hung{0};
};
Registry& Get() {
  static auto* registry = new Registry;
  return *registry;
}

std::shared_ptr<ncclComm> Opened(ncclComm_t handle) {
  const auto found = Get().alive.find(handle);
  if (found == Get().alive.end()) Fault("an NCCL communicator is used that does not exist");
  return found->second;
}

ncclResult_t Refuse(ncclResult_t result, std::string why) {
  Get().last_error = std::move(why);
  return result;
}

void FailAll(Clique& clique, const std::string& why) {
  for (const std::shared_ptr<ncclComm>& rank : clique.ranks) {
    if (rank->error != ncclSuccess) continue;
    rank->error = ncclInvalidUsage;
    rank->last_error = why;
  }
}

// ---- operations --------------------------------------------------------------------------------

float Load(const void* from, size_t i) {
  float value;
  CopyBytes(&value, static_cast<const float*>(from) + i, sizeof(value));
  return value;
}

// Inputs must be read before any rank's output is written: it may lie in the same place.
void Compute(Operation& operation) {
  const size_t bytes = operation.request.bytes, ranks = operation.inputs.size();
  if (std::strcmp(operation.request.kind, "all-gather") == 0) {
    operation.result.resize(bytes * ranks);
    for (size_t rank = 0; rank < ranks; ++rank) {
      CopyBytes(operation.result.data() + rank * bytes, operation.inputs[rank], bytes);
    }
    return;
  }
  operation.result.resize(bytes);
  for (size_t i = 0; i < bytes / sizeof(float); ++i) {
    float sum = Load(operation.inputs[0], i);
    for (size_t rank = 1; rank < ranks; ++rank) sum += Load(operation.inputs[rank], i);
    std::memcpy(operation.result.data() + i * sizeof(float), &sum, sizeof(sum));
  }
}

// Called when the rank's stream has come to it, again and again until it is true.
bool Ready(ncclComm& comm, uint64_t number, const Request& request, const void* input) {
  if (comm.aborted) return true;
  Clique& clique = *comm.clique;
  Operation& operation = clique.operations[number];
  operation.inputs.resize(clique.ranks.size());
  if (operation.first < 0) {
    operation.first = comm.rank;
    operation.request = request;
  }
  if (!(operation.request == request)) {
    FailAll(clique, absl::StrCat("operation ", number, ": rank ", comm.rank, " asks for ",
                                 Describe(request), ", rank ", operation.first, " for ",
                                 Describe(operation.request)));
  }
  if (comm.error != ncclSuccess) return false;
  operation.inputs[comm.rank] = input;
  for (const void* each : operation.inputs) {
    if (each == nullptr) return false;
  }
  if (!std::exchange(operation.computed, true)) Compute(operation);
  return true;
}

// What was aborted has spoiled a part of its output, with finite values: nothing but a gate must
// keep them out.
void Finish(ncclComm& comm, uint64_t number, void* output, size_t output_bytes) {
  if (comm.aborted) return FillBytes(output, 0x3f, output_bytes / 2);
  Clique& clique = *comm.clique;
  Operation& operation = clique.operations[number];
  CopyBytes(output, operation.result.data(), operation.result.size());
  if (++operation.taken == static_cast<int>(clique.ranks.size())) clique.operations.erase(number);
}

ncclResult_t Begin(ncclComm_t handle, const Request& request, const void* input, void* output,
                   size_t output_bytes, std::vector<Device::Touch> touches, cudaStream_t stream) {
  const auto lock = Lock();
  const std::shared_ptr<ncclComm> comm = Opened(handle);
  Device& device = Device::Get();
  if (comm->error != ncclSuccess) return comm->error;
  if (comm->unsettled != nullptr || !comm->clique->connected) {
    return Refuse(ncclInvalidUsage, "the operation before is still in progress");
  }
  if (device.Find(input) == nullptr || device.Find(output) == nullptr) {
    return Refuse(ncclInvalidArgument, absl::StrCat(request.kind, " of memory that is not the "
                                                                  "device's"));
  }
  if (device.Open(stream)->device != comm->clique->devices[comm->rank]) {
    return Refuse(ncclInvalidArgument, "a stream of another device");
  }
  const uint64_t number = ++comm->operations;
  comm->asked = false;
  comm->unsettled = [=] {
    Device::Get().Put(
        *Device::Get().Open(stream), {request.kind, nullptr}, touches,
        [=] { Finish(*comm, number, output, output_bytes); },
        [=] { return Ready(*comm, number, request, input); });
  };
  return ncclInProgress;
}

}  // namespace

// ---- for tests ---------------------------------------------------------------------------------

cuda::NcclLibrary NcclStandin() {
  cuda::NcclLibrary library;
#define VITSCALE_NCCL_TAKE(name) library.name = nccl##name;
  VITSCALE_NCCL_FUNCTIONS(VITSCALE_NCCL_TAKE)
#undef VITSCALE_NCCL_TAKE
  return library;
}

void FailCommunicator(int rank, ncclResult_t error, const std::string& why) {
  const auto lock = Lock();
  for (auto newest = Get().in_order.rbegin(); newest != Get().in_order.rend(); ++newest) {
    const auto alive = Get().alive.find(*newest);
    if (alive == Get().alive.end() || alive->second->rank != rank) continue;
    alive->second->error = error;
    alive->second->last_error = why;
    return;
  }
  Fault(absl::StrCat("FailCommunicator: rank ", rank, " has none"));
}

HungAborts::HungAborts() { ++Get().hung; }
HungAborts::~HungAborts() { --Get().hung; }

NcclCounts CountCommunicators() {
  const auto lock = Lock();
  return Get().counts;
}

}  // namespace vitscale::cuda_on_cpu

extern "C" {

// ---- communicators -----------------------------------------------------------------------------

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "internal error";
  }
}
const char* ncclGetLastError(ncclComm_t comm) {
  const auto lock = Lock();
  thread_local std::string text;
  text = comm != nullptr && !Opened(comm)->last_error.empty() ? comm->last_error
                                                              : Get().last_error;
  return text.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const auto lock = Lock();
  std::memset(id->internal, 0, sizeof(id->internal));
  const std::string text = absl::StrCat("stand-in ", ++Get().ids);
  std::memcpy(id->internal, text.data(), text.size());
  Get().cliques[std::string(id->internal, sizeof(id->internal))] = std::make_shared<Clique>();
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  const auto lock = Lock();
  if (config == nullptr || config->blocking != 0) {
    Fault("an NCCL communicator that blocks: nobody could keep a deadline");
  }
  const auto found = Get().cliques.find(std::string(id.internal, sizeof(id.internal)));
  if (found == Get().cliques.end()) return Refuse(ncclInvalidArgument, "nobody made this id");
  const std::shared_ptr<Clique> clique = found->second;
  if (clique->ranks.empty()) {
    clique->ranks.resize(ranks);
    clique->devices.resize(ranks, -1);
  }
  if (rank < 0 || rank >= ranks || ranks != static_cast<int>(clique->ranks.size()) ||
      clique->ranks[rank] != nullptr) {
    return Refuse(ncclInvalidArgument, absl::StrCat("rank ", rank, " of ", ranks));
  }
  int device = 0;
  (void)cudaGetDevice(&device);
  for (const int other : clique->devices) {
    if (other == device) return Refuse(ncclInvalidUsage, "two ranks on one device");
  }
  auto comm = std::make_shared<ncclComm>();
  comm->clique = clique;
  comm->rank = rank;
  clique->ranks[rank] = comm;
  clique->devices[rank] = device;
  clique->connected = true;
  for (const std::shared_ptr<ncclComm>& each : clique->ranks) {
    if (each == nullptr || each->aborted) clique->connected = false;
  }
  Get().alive[comm.get()] = comm;
  Get().in_order.push_back(comm.get());
  ++Get().counts.made;
  *out = comm.get();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* state) {
  const auto lock = Lock();
  const std::shared_ptr<ncclComm> comm = Opened(handle);
  *state = comm->error;
  if (comm->error != ncclSuccess) return ncclSuccess;
  if (!comm->clique->connected) *state = ncclInProgress;
  if (comm->unsettled == nullptr) return ncclSuccess;
  if (!std::exchange(comm->asked, true)) {
    *state = ncclInProgress;
  } else {
    std::exchange(comm->unsettled, nullptr)();
  }
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
  while (Get().hung > 0) std::this_thread::yield();
  const auto lock = Lock();
  const std::shared_ptr<ncclComm> comm = Opened(handle);
  comm->aborted = true;
  comm->unsettled = nullptr;
  ++Get().counts.aborted;
  Get().alive.erase(handle);
  return ncclSuccess;  // the others keep waiting for this rank: NCCL tells them nothing
}

// ---- operations --------------------------------------------------------------------------------

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclFloat32 || op != ncclSum) {
    return Refuse(ncclInvalidArgument, "the stand-in knows sums of f32 only");
  }
  const size_t bytes = count * sizeof(float);
  return Begin(comm, {"all-reduce", bytes, type}, from, to, bytes, {}, stream);
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclUint8) return Refuse(ncclInvalidArgument, "the stand-in gathers bytes only");
  size_t ranks = 0;
  {
    const auto lock = Lock();
    ranks = Opened(comm)->clique->ranks.size();
  }
  return Begin(comm, {"all-gather", count, type}, from, to, count * ranks,
               {{from, count, false}, {to, count * ranks, true}}, stream);
}

}  // extern "C"
