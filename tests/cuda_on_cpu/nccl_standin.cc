#include "tests/cuda_on_cpu/nccl_standin.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/fault.h"
#include "tests/cuda_on_cpu/nccl_folder.h"

// A loop that copies device memory must not become a call of memcpy: AddressSanitizer would look at
// memory that is hidden from the host.
#pragma GCC optimize("no-tree-loop-distribute-patterns")

namespace vitscale::cuda_on_cpu {
namespace {

std::unique_lock<std::recursive_mutex> Lock() {
  return std::unique_lock<std::recursive_mutex>(Device::Get().mutex());
}

// ---- what ranks ask for ------------------------------------------------------------------------

struct Request {  // equal on all ranks, but for the values
  const char* kind;
  size_t bytes;  // of a rank's input
  ncclDataType_t type;
  std::shared_ptr<const std::string> complete;  // what an all-reduce was asked to sum
};
std::string Describe(const Request& request) {
  return absl::StrCat(request.kind, " of ", request.bytes, " bytes of type ",
                      static_cast<int>(request.type));
}

// The operation that a rank's stream has come to.
struct Operation {
  uint64_t number = 0;
  std::vector<std::string> inputs;  // by rank; empty: not come yet
  std::string result;
};

}  // namespace
}  // namespace vitscale::cuda_on_cpu

using namespace vitscale::cuda_on_cpu;  // NOLINT: nccl.h names this type

struct ncclComm {
  std::string folder;
  int rank = 0, ranks = 0, device = 0;
  bool connected = false;  // all ranks were seen at once
  ncclResult_t error = ncclSuccess;
  std::string last_error;
  bool aborted = false;
  uint64_t operations = 0;          // asked for
  std::function<void()> unsettled;  // puts the last of them into its stream
  bool asked = false;               // how far it is, since then
  Operation current;
};

namespace vitscale::cuda_on_cpu {
namespace {

// Of this process, under the lock of the device.
struct Registry {
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

// What is wrong with the ranks that have come, if anything.
std::string CompareRanks(const ncclComm& own, bool& all) {
  all = true;
  for (int rank = 0; rank < own.ranks; ++rank) {
    std::string text;
    if (rank == own.rank) continue;
    if (!ReadFile(FileOfRank(own.folder, rank), text)) {
      all = false;
      continue;
    }
    const std::vector<std::string> words = absl::StrSplit(text, ' ');
    if (words[0] != absl::StrCat(own.ranks)) {
      return absl::StrCat("rank ", own.rank, " is one of ", own.ranks, ", rank ", rank, " one of ",
                          words[0]);
    }
    if (words[1] == absl::StrCat(own.device)) return "two ranks on one device";
  }
  return "";
}

void Connect(ncclComm& comm) {
  if (comm.connected || comm.error != ncclSuccess) return;
  bool all = false;
  comm.last_error = CompareRanks(comm, all);
  if (!comm.last_error.empty()) comm.error = ncclInvalidUsage;
  comm.connected = all && comm.error == ncclSuccess;
}

// True where the test wants it now: `moment` is the number of an operation, or "abort".
bool LosesDevice(int rank, int device, const std::string& moment) {
  const char* when = std::getenv(kLosesDevice);
  if (when == nullptr || absl::StrCat(rank, " ", moment) != when) return false;
  Device::Get().lost.insert(device);
  return true;
}
constexpr char kLost[] = "Cuda failure 'unspecified launch failure'";

// ---- operations --------------------------------------------------------------------------------

float Load(const std::string& from, size_t i) {
  float value;
  std::memcpy(&value, from.data() + i * sizeof(value), sizeof(value));
  return value;
}

std::string ResultOf(const Request& request, const std::vector<std::string>& inputs) {
  std::string result;
  if (std::strcmp(request.kind, "all-gather") == 0) {
    for (const std::string& input : inputs) result += input;
    return result;
  }
  result.resize(request.bytes);
  for (size_t i = 0; i < request.bytes / sizeof(float); ++i) {
    float sum = Load(inputs[0], i);
    for (size_t rank = 1; rank < inputs.size(); ++rank) sum += Load(inputs[rank], i);
    std::memcpy(result.data() + i * sizeof(float), &sum, sizeof(sum));
  }
  return result;
}

// The input of a rank that has come to the operation; false if it has not, or asks for another.
bool TakeInput(ncclComm& comm, int rank, const Request& request) {
  std::string& input = comm.current.inputs[rank];
  std::string text;
  if (!input.empty()) return true;
  if (!ReadFile(FileOfInput(comm.folder, comm.current.number, rank), text)) return false;
  const size_t line_end = text.find('\n');
  const std::string asks = text.substr(0, line_end);
  if (asks != Describe(request)) {
    comm.error = ncclInvalidUsage;
    comm.last_error = absl::StrCat("operation ", comm.current.number, ": rank ", rank, " asks for ",
                                   asks, ", rank ", comm.rank, " for ", Describe(request));
    return false;
  }
  input = text.substr(line_end + 1);
  return true;
}

std::string BytesAt(const void* from, size_t count) {
  std::string bytes(count, '\0');
  CopyBytes(bytes.data(), from, count);
  return bytes;
}

// The stand-in is late: whatever still wrote the bucket when the sum began has written it by now.
// Streams cannot be compared instead: a kernel touches a whole arena, and so the next bucket too.
void CheckComplete(const ncclComm& comm, const Request& request, const void* from) {
  if (request.complete == nullptr || *request.complete == BytesAt(from, request.bytes)) return;
  Fault(absl::StrCat("the all-reduce of rank ", comm.rank, " began before its ", request.bytes,
                     " bytes were complete"));
}

// Called when the rank's stream has come to it, again and again until it is true.
bool Ready(ncclComm& comm, uint64_t number, const Request& request, const void* from) {
  if (comm.aborted) return true;
  if (comm.error != ncclSuccess) return false;
  if (comm.current.number != number) {
    comm.current = {number, std::vector<std::string>(comm.ranks), ""};
    std::string& own = comm.current.inputs[comm.rank];
    CheckComplete(comm, request, from);
    own = BytesAt(from, request.bytes);
    WriteFile(FileOfInput(comm.folder, number, comm.rank),
              absl::StrCat(Describe(request), "\n", own));
  }
  for (int rank = 0; rank < comm.ranks; ++rank) {
    if (!TakeInput(comm, rank, request)) return false;
  }
  comm.current.result = ResultOf(request, comm.current.inputs);
  return true;
}

// What was aborted has spoiled a part of its output, with finite values: nothing but a gate must
// keep them out.
void Finish(ncclComm& comm, uint64_t number, void* output, size_t output_bytes) {
  if (comm.aborted) return FillBytes(output, 0x3f, output_bytes / 2);
  CopyBytes(output, comm.current.result.data(), comm.current.result.size());
  // All ranks have come to this one, so they are done with the one before.
  RemoveFile(FileOfInput(comm.folder, number - 1, comm.rank));
}

ncclResult_t Begin(ncclComm_t handle, const Request& request, const void* input, void* output,
                   size_t output_bytes, std::vector<Device::Touch> touches, cudaStream_t stream) {
  const auto lock = Lock();
  const std::shared_ptr<ncclComm> comm = Opened(handle);
  Device& device = Device::Get();
  if (comm->error != ncclSuccess) return comm->error;
  if (comm->unsettled != nullptr || !comm->connected) {
    return Refuse(ncclInvalidUsage, "the operation before is still in progress");
  }
  if (device.Find(input) == nullptr || device.Find(output) == nullptr) {
    return Refuse(ncclInvalidArgument, absl::StrCat(request.kind,
                                                    " of memory that is not the "
                                                    "device's"));
  }
  if (device.Open(stream)->device != comm->device) {
    return Refuse(ncclInvalidArgument, "a stream of another device");
  }
  const uint64_t number = ++comm->operations;
  if (LosesDevice(comm->rank, comm->device, std::to_string(number))) {
    comm->last_error = kLost;
    return comm->error = ncclUnhandledCudaError;
  }
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
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
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
  text = comm != nullptr && !Opened(comm)->last_error.empty() ? comm->last_error : Get().last_error;
  return text.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const auto lock = Lock();
  std::memset(id->internal, 0, sizeof(id->internal));
  const std::string folder = MakeFolder();
  if (folder.size() >= sizeof(id->internal)) return Refuse(ncclSystemError, "no room for an id");
  std::memcpy(id->internal, folder.data(), folder.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  const auto lock = Lock();
  if (config == nullptr || config->blocking != 0) {
    Fault("an NCCL communicator that blocks: nobody could keep a deadline");
  }
  auto comm = std::make_shared<ncclComm>();
  (void)cudaGetDevice(&comm->device);
  if (LosesDevice(rank, comm->device, "0")) return Refuse(ncclUnhandledCudaError, kLost);
  comm->folder.assign(id.internal, strnlen(id.internal, sizeof(id.internal)));
  comm->rank = rank;
  comm->ranks = ranks;
  if (!Exists(comm->folder)) {
    return Refuse(ncclInvalidArgument, "nobody made this id");
  }
  const std::string file = FileOfRank(comm->folder, rank);
  if (rank < 0 || rank >= ranks || Exists(file)) {
    return Refuse(ncclInvalidArgument, absl::StrCat("rank ", rank, " of ", ranks));
  }
  bool all = false;
  if (const std::string wrong = CompareRanks(*comm, all); !wrong.empty()) {
    return Refuse(ncclInvalidUsage, wrong);
  }
  WriteFile(file, absl::StrCat(ranks, " ", comm->device));
  Get().alive[comm.get()] = comm;
  Get().in_order.push_back(comm.get());
  ++Get().counts.made;
  *out = comm.get();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* state) {
  const auto lock = Lock();
  const std::shared_ptr<ncclComm> comm = Opened(handle);
  Connect(*comm);
  *state = comm->error;
  if (comm->error != ncclSuccess) return ncclSuccess;
  if (!comm->connected) *state = ncclInProgress;
  if (comm->unsettled == nullptr) return ncclSuccess;
  if (!std::exchange(comm->asked, true)) {
    *state = ncclInProgress;
  } else {
    std::exchange(comm->unsettled, nullptr)();
  }
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
  static const bool always = std::getenv("VITSCALE_NCCL_HUNG_ABORTS") != nullptr;
  while (always || Get().hung > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto lock = Lock();
  const std::shared_ptr<ncclComm> comm = Opened(handle);
  comm->aborted = true;
  comm->unsettled = nullptr;
  (void)LosesDevice(comm->rank, comm->device, "abort");
  ++Get().counts.aborted;
  Get().alive.erase(handle);
  if (!comm->connected) RemoveFile(FileOfRank(comm->folder, comm->rank));
  return ncclSuccess;  // the others keep waiting for this rank: NCCL tells them nothing
}

// ---- operations --------------------------------------------------------------------------------

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclFloat32 || op != ncclSum) {
    return Refuse(ncclInvalidArgument, "the stand-in knows sums of f32 only");
  }
  const size_t bytes = count * sizeof(float);
  const auto lock = Lock();
  Request request{"all-reduce", bytes, type};
  if (Device::Get().Find(from) != nullptr) {
    request.complete = std::make_shared<const std::string>(BytesAt(from, bytes));
  }
  return Begin(comm, request, from, to, bytes, {}, stream);
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclUint8) return Refuse(ncclInvalidArgument, "the stand-in gathers bytes only");
  size_t ranks = 0;
  {
    const auto lock = Lock();
    ranks = static_cast<size_t>(Opened(comm)->ranks);
  }
  return Begin(comm, {"all-gather", count, type}, from, to, count * ranks,
               {{from, count, false}, {to, count * ranks, true}}, stream);
}

}  // extern "C"
