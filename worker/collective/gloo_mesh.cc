#include "worker/collective/gloo_mesh.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gloo/allgather.h"
#include "gloo/allreduce.h"
#include "gloo/barrier.h"
#include "gloo/broadcast.h"
#include "gloo/common/error.h"
#include "gloo/context.h"
#include "gloo/math.h"
#include "gloo/transport/context.h"
#include "gloo/transport/pair.h"
#include "gloo/transport/tcp/address.h"
#include "gloo/transport/tcp/device.h"
#include "gloo/transport/unbound_buffer.h"
#include "kernels/base/status.h"
#include "kernels/base/unique_fd.h"

namespace vitscale {
namespace {

// Gloo's own time-outs never fire first: deadlines are kept by Shutdown.
constexpr std::chrono::hours kForever(24 * 30);
// Pair::connect waits five times the time-out of its context.
constexpr int kConnectTimeoutFactor = 5;

template <typename F>
absl::Status CatchGloo(absl::string_view what, F&& call) {
  try {
    call();
    return absl::OkStatus();
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat(what, ": ", e.what()));
  } catch (...) {
    return absl::UnavailableError(absl::StrCat(what, ": unknown exception"));
  }
}

class TrackingContext;

// A buffer whose waits can be ended from outside. Shutting down the sockets is not enough: a pair
// that is closed already tells nobody any more, and a wait that begins just then would last for
// ever.
class TrackedBuffer : public gloo::transport::UnboundBuffer {
 public:
  TrackedBuffer(TrackingContext& tracker, std::unique_ptr<gloo::transport::UnboundBuffer> inner);
  ~TrackedBuffer() override;

  // Every wait on it throws, now and later.
  void Abort() {
    aborted_ = true;
    inner_->abortWaitRecv();
    inner_->abortWaitSend();
  }
  bool waitRecv(int* rank, std::chrono::milliseconds timeout) override {
    ThrowIfAborted();
    const bool completed = inner_->waitRecv(rank, timeout);
    ThrowIfAborted();
    return completed;
  }
  bool waitSend(int* rank, std::chrono::milliseconds timeout) override {
    ThrowIfAborted();
    const bool completed = inner_->waitSend(rank, timeout);
    ThrowIfAborted();
    return completed;
  }
  void abortWaitRecv() override { inner_->abortWaitRecv(); }
  void abortWaitSend() override { inner_->abortWaitSend(); }
  void send(int rank, uint64_t slot, size_t offset, size_t bytes) override {
    inner_->send(rank, slot, offset, bytes);
  }
  void recv(int rank, uint64_t slot, size_t offset, size_t bytes) override {
    inner_->recv(rank, slot, offset, bytes);
  }
  void recv(std::vector<int> ranks, uint64_t slot, size_t offset, size_t bytes) override {
    inner_->recv(std::move(ranks), slot, offset, bytes);
  }

 private:
  void ThrowIfAborted() const {
    if (aborted_) throw gloo::IoException("aborted");
  }

  TrackingContext& tracker_;
  const std::unique_ptr<gloo::transport::UnboundBuffer> inner_;
  std::atomic<bool> aborted_{false};
};

// Gloo's TCP context, and a list of the buffers in use, those that Gloo's algorithms make for
// themselves included.
class TrackingContext : public gloo::transport::Context {
 public:
  explicit TrackingContext(std::shared_ptr<gloo::transport::Context> inner)
      : gloo::transport::Context(inner->rank, inner->size), inner_(std::move(inner)) {}

  std::unique_ptr<gloo::transport::Pair>& getPair(int rank) override {
    return inner_->getPair(rank);
  }
  std::unique_ptr<gloo::transport::Pair>& createPair(int rank) override {
    return inner_->createPair(rank);
  }
  std::unique_ptr<gloo::transport::UnboundBuffer> createUnboundBuffer(void* data,
                                                                      size_t size) override {
    return std::make_unique<TrackedBuffer>(*this, inner_->createUnboundBuffer(data, size));
  }

  void Add(TrackedBuffer* buffer) {
    absl::MutexLock lock(&buffers_mutex_);
    buffers_.insert(buffer);
    if (aborted_) buffer->Abort();
  }
  void Remove(TrackedBuffer* buffer) {
    absl::MutexLock lock(&buffers_mutex_);
    buffers_.erase(buffer);
  }
  void AbortAll() {
    absl::MutexLock lock(&buffers_mutex_);
    aborted_ = true;
    for (TrackedBuffer* buffer : buffers_) buffer->Abort();
  }

 private:
  const std::shared_ptr<gloo::transport::Context> inner_;
  absl::Mutex buffers_mutex_;
  std::set<TrackedBuffer*> buffers_ ABSL_GUARDED_BY(buffers_mutex_);
  bool aborted_ ABSL_GUARDED_BY(buffers_mutex_) = false;
};

TrackedBuffer::TrackedBuffer(TrackingContext& tracker,
                             std::unique_ptr<gloo::transport::UnboundBuffer> inner)
    : UnboundBuffer(inner->ptr, inner->size), tracker_(tracker), inner_(std::move(inner)) {
  tracker_.Add(this);
}
TrackedBuffer::~TrackedBuffer() { tracker_.Remove(this); }

// Gloo's context builds its pairs only through its own stores; the members it needs are protected.
class MeshContext : public gloo::Context {
 public:
  MeshContext(int rank, int size) : gloo::Context(rank, size) {}

  void Open(std::shared_ptr<gloo::transport::Device> device, std::chrono::milliseconds timeout) {
    device_ = std::move(device);
    const auto tcp = device_->createContext(rank, size);
    tcp->setTimeout(timeout);  // of connecting
    tracking_ = std::make_shared<TrackingContext>(tcp);
    transportContext_ = tracking_;
    for (int peer = 0; peer < size; ++peer) {
      if (peer != rank) transportContext_->createPair(peer);
    }
    setTimeout(std::chrono::duration_cast<std::chrono::milliseconds>(kForever));
  }
  std::vector<char> AddressFor(int peer) {
    return transportContext_->getPair(peer)->address().bytes();
  }
  void ConnectTo(int peer, const std::vector<char>& address) {
    transportContext_->getPair(peer)->connect(address);
  }
  void AbortAll() { tracking_->AbortAll(); }

 private:
  std::shared_ptr<TrackingContext> tracking_;
};

// Address and port of a socket address, comparable; empty for what is not TCP.
std::string EndpointKey(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return absl::StrCat("4", absl::string_view(reinterpret_cast<const char*>(&v4.sin_addr), 4),
                        absl::string_view(reinterpret_cast<const char*>(&v4.sin_port), 2));
  }
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    return absl::StrCat("6", absl::string_view(reinterpret_cast<const char*>(&v6.sin6_addr), 16),
                        absl::string_view(reinterpret_cast<const char*>(&v6.sin6_port), 2));
  }
  return "";
}

std::string LocalKey(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
  return EndpointKey(address);
}

std::string PeerKey(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
  return EndpointKey(address);
}

std::string KeyOf(const std::vector<char>& gloo_address) {
  return EndpointKey(gloo::transport::tcp::Address(gloo_address).getSockaddr());
}

std::vector<int> OpenDescriptors() {
  std::vector<int> open;
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return open;
  while (const dirent* entry = readdir(directory)) {
    int fd = -1;
    if (absl::SimpleAtoi(entry->d_name, &fd) && fd != dirfd(directory)) open.push_back(fd);
  }
  closedir(directory);
  return open;
}

// A duplicate of a socket of the mesh. Gloo may close its own descriptor at any time, and the
// number may then name something else; the duplicate is ours.
struct RememberedSocket {
  int peer = 0;
  UniqueFd fd;
};

}  // namespace

struct GlooMesh::State {
  int rank = 0;
  int world_size = 0;
  std::shared_ptr<MeshContext> context;
  std::vector<std::vector<char>> own;  // address of this rank's socket for each peer

  mutable absl::Mutex mutex;
  std::vector<std::string> remote_keys
      ABSL_GUARDED_BY(mutex);  // of each peer's socket for this rank
  std::vector<RememberedSocket> sockets ABSL_GUARDED_BY(mutex);

  // Which peer a socket of this process leads to; -1: it is not of this mesh. Ranks may be threads
  // of one process, so a socket belongs to the mesh whose listening address is its own end, or
  // which connected to the peer's.
  int PeerOf(int fd) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const std::string local = LocalKey(fd), remote = PeerKey(fd);
    if (local.empty()) return -1;
    for (int peer = 0; peer < world_size; ++peer) {
      if (peer == rank) continue;
      if (KeyOf(own[peer]) == local) return peer;
      if (!remote.empty() && !remote_keys.empty() && remote_keys[peer] == remote) return peer;
    }
    return -1;
  }

  void Remember() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    sockets.clear();
    for (int fd : OpenDescriptors()) {
      if (PeerOf(fd) < 0) continue;
      UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
      if (!copy.valid()) continue;
      const int peer = PeerOf(copy.get());  // the number may have changed hands meanwhile
      if (peer >= 0) sockets.push_back({peer, std::move(copy)});
    }
  }
};

GlooMesh::GlooMesh(std::unique_ptr<State> state) : state_(std::move(state)) {}

GlooMesh::~GlooMesh() {
  Shutdown();  // peers must not wait for the duplicates to be closed
  (void)CatchGloo("close", [&] { state_->context.reset(); });
}

absl::StatusOr<std::unique_ptr<GlooMesh>> GlooMesh::Create(int rank, int world_size,
                                                           const std::string& host,
                                                           absl::Duration connect_timeout) {
  auto state = std::make_unique<State>();
  state->rank = rank;
  state->world_size = world_size;
  state->own.resize(world_size);
  VITSCALE_RETURN_IF_ERROR(CatchGloo(absl::StrCat("open sockets on ", host), [&] {
    gloo::transport::tcp::attr attribute;
    attribute.hostname = host;
    state->context = std::make_shared<MeshContext>(rank, world_size);
    const auto timeout = absl::ToChronoMilliseconds(connect_timeout / kConnectTimeoutFactor);
    state->context->Open(gloo::transport::tcp::CreateDevice(attribute),
                         std::max(timeout, std::chrono::milliseconds(1)));
    for (int peer = 0; peer < world_size; ++peer) {
      if (peer != rank) state->own[peer] = state->context->AddressFor(peer);
    }
  }));
  return std::unique_ptr<GlooMesh>(new GlooMesh(std::move(state)));
}

std::string GlooMesh::Addresses() const {
  size_t size = 0;
  for (const auto& address : state_->own) size = std::max(size, address.size());
  std::string blob;
  for (const auto& address : state_->own) {
    std::string padded(address.begin(), address.end());
    padded.resize(size, '\0');
    blob += padded;
  }
  return blob;
}

absl::Status GlooMesh::ConnectAll(const std::vector<std::string>& addresses) {
  const size_t slot = addresses[state_->rank].size() / state_->world_size;
  std::vector<std::vector<char>> remote(state_->world_size);
  for (int peer = 0; peer < state_->world_size; ++peer) {
    if (peer == state_->rank) continue;
    if (addresses[peer].size() != slot * state_->world_size) {
      return absl::UnavailableError(
          absl::StrCat("connect: rank ", peer, " sent ", addresses[peer].size(),
                       " bytes of addresses, want ", slot * state_->world_size));
    }
    const char* from = addresses[peer].data() + slot * state_->rank;
    remote[peer].assign(from, from + slot);
  }
  std::vector<std::string> keys(state_->world_size);
  VITSCALE_RETURN_IF_ERROR(CatchGloo("connect", [&] {
    for (int peer = 0; peer < state_->world_size; ++peer) {
      if (peer != state_->rank) keys[peer] = KeyOf(remote[peer]);
    }
  }));
  {
    absl::MutexLock lock(&state_->mutex);
    state_->remote_keys = std::move(keys);
  }
  for (int peer = 0; peer < state_->world_size; ++peer) {
    if (peer == state_->rank) continue;
    VITSCALE_RETURN_IF_ERROR(CatchGloo(absl::StrCat("connect to rank ", peer),
                                       [&] { state_->context->ConnectTo(peer, remote[peer]); }));
  }
  absl::MutexLock lock(&state_->mutex);
  state_->Remember();
  if (static_cast<int>(state_->sockets.size()) < state_->world_size - 1) {
    return absl::InternalError(absl::StrCat("connect: found ", state_->sockets.size(),
                                            " sockets of the mesh, want ", state_->world_size - 1));
  }
  return absl::OkStatus();
}

absl::Status GlooMesh::AllReduceSum(absl::Span<float> values, uint32_t tag) {
  return CatchGloo("all-reduce", [&] {
    gloo::AllreduceOptions options(state_->context);
    options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);
    options.setOutput(values.data(), values.size());
    options.setReduceFunction(
        static_cast<void (*)(void*, const void*, const void*, size_t)>(&gloo::sum<float>));
    options.setTag(tag);
    gloo::allreduce(options);
  });
}

absl::Status GlooMesh::AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag) {
  return CatchGloo("all-gather", [&] {
    gloo::AllgatherOptions options(state_->context);
    options.setInput(const_cast<char*>(own.data()), own.size());
    options.setOutput(all.data(), all.size());
    options.setTag(tag);
    gloo::allgather(options);
  });
}

absl::Status GlooMesh::Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) {
  return CatchGloo("broadcast", [&] {
    gloo::BroadcastOptions options(state_->context);
    options.setRoot(root);
    options.setOutput(reinterpret_cast<char*>(bytes.data()), bytes.size());
    options.setTag(tag);
    gloo::broadcast(options);
  });
}

absl::Status GlooMesh::Barrier(uint32_t tag) {
  return CatchGloo("barrier", [&] {
    gloo::BarrierOptions options(state_->context);
    options.setTag(tag);
    gloo::barrier(options);
  });
}

void GlooMesh::Shutdown() {
  absl::MutexLock lock(&state_->mutex);
  if (state_->sockets.empty()) state_->Remember();  // still connecting
  for (const RememberedSocket& socket : state_->sockets) shutdown(socket.fd.get(), SHUT_RDWR);
  if (state_->context) state_->context->AbortAll();
}

std::vector<int> GlooMesh::ClosedPeers() const {
  absl::MutexLock lock(&state_->mutex);
  std::vector<int> closed;
  for (const RememberedSocket& socket : state_->sockets) {
    pollfd entry{socket.fd.get(), POLLRDHUP, 0};
    if (poll(&entry, 1, 0) > 0) closed.push_back(socket.peer);
  }
  return closed;
}

}  // namespace vitscale
