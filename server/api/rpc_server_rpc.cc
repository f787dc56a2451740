#include <fcntl.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_posix.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "kernels/base/unique_fd.h"
#include "proto/rpc/channel_rpc.h"
#include "server/api/control_service_rpc.h"
#include "server/api/rpc_server.h"
#include "server/api/worker_service_rpc.h"

namespace vitscale {
namespace {

constexpr int kMessageBytesMax = 4 << 20;

// A socket file that nobody answers on is left over from a crash and is removed.
absl::StatusOr<UniqueFd> BindUnix(const std::string& path) {
  VITSCALE_RETURN_IF_ERROR(PosixFileSystem().MakeDirectories(DirectoryName(path)));
  if (ConnectUnix(path, absl::Seconds(1)).ok()) {
    return absl::AlreadyExistsError(absl::StrCat("another process serves the socket '", path, "'"));
  }
  unlink(path.c_str());
  return ListenUnix(path, 0600);
}

// Hands connections of the Unix socket to gRPC and remembers whose they are.
class UnixAcceptor {
 public:
  UnixAcceptor(UniqueFd listener, grpc::Server* server, PeerTable& peers)
      : listener_(std::move(listener)),
        stop_(eventfd(0, EFD_CLOEXEC)),
        server_(server),
        peers_(peers),
        thread_([this] { Loop(); }) {}
  ~UnixAcceptor() {
    const uint64_t one = 1;
    (void)!write(stop_.get(), &one, sizeof(one));
    thread_.join();
  }

 private:
  void Loop() {
    while (true) {
      pollfd fds[2] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
      if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
      if (fds[1].revents != 0) return;
      if (fds[0].revents == 0) continue;
      const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd >= 0) {
        Take(fd);
      } else if (errno == EMFILE || errno == ENFILE) {
        VITSCALE_LOG(ERROR) << "accept: too many open files";
        poll(&fds[1], 1, 100);
      }
    }
  }
  void Take(int fd) {
    ucred credentials = {};
    socklen_t length = sizeof(credentials);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
      close(fd);
      return;
    }
    peers_.Set(fd, credentials.uid);
    grpc::AddInsecureChannelFromFd(server_, fd);  // owns it from now on
  }

  UniqueFd listener_;
  UniqueFd stop_;
  grpc::Server* server_;
  PeerTable& peers_;
  std::thread thread_;
};

class GrpcServer : public RpcServer {
 public:
  GrpcServer(RpcServerOptions options, Coordinator& coordinator)
      : options_(std::move(options)),
        control_(coordinator, peers_),
        workers_(coordinator, peers_) {}
  ~GrpcServer() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen() {
    VITSCALE_RETURN_IF_ERROR(CheckExposure("--listen", options_.listen, options_.insecure));
    UniqueFd unix_socket;
    if (!options_.unix_path.empty()) {
      VITSCALE_ASSIGN_OR_RETURN(unix_socket, BindUnix(options_.unix_path));
    }
    grpc::EnableDefaultHealthCheckService(true);
    if (options_.reflection) RegisterReflection();
    grpc::ServerBuilder builder;
    AllowKeepalive(builder);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.SetMaxReceiveMessageSize(kMessageBytesMax);
    // Only reflection is not of the callback kind.
    builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
    int port = 0;
    builder.AddListeningPort(options_.listen.ToString(), MakeServerCredentials(), &port);
    builder.RegisterService(&control_);
    builder.RegisterService(&workers_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      if (!options_.unix_path.empty()) unlink(options_.unix_path.c_str());
      return absl::AlreadyExistsError(absl::StrCat("cannot listen on ", options_.listen.ToString(),
                                                   ": the port is taken, or the address is not "
                                                   "of this machine"));
    }
    address_ = {options_.listen.host, port};
    if (unix_socket.valid())
      acceptor_ = std::make_unique<UnixAcceptor>(std::move(unix_socket), server_.get(), peers_);
    return absl::OkStatus();
  }

  HostPort address() const override { return address_; }

  void SetServing(bool serving) override {
    if (auto* health = server_->GetHealthCheckService()) {
      health->SetServingStatus(serving);
      health->SetServingStatus("vitscale.v1.ControlService", serving);
      health->SetServingStatus("vitscale.v1.WorkerService", serving);
    }
  }

  void Shutdown(absl::Duration grace) override {
    if (server_ == nullptr) return;
    if (acceptor_ != nullptr) {
      unlink(options_.unix_path.c_str());
      acceptor_.reset();
    }
    server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
    server_->Wait();
    server_.reset();
  }

 private:
  static void RegisterReflection() {
    static std::once_flag once;
    std::call_once(once, [] { grpc::reflection::InitProtoReflectionServerBuilderPlugin(); });
  }

  const RpcServerOptions options_;
  PeerTable peers_;
  ControlServiceRpc control_;
  WorkerServiceRpc workers_;
  HostPort address_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<UnixAcceptor> acceptor_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcServerOptions& options,
                                                            Coordinator& coordinator) {
  auto server = std::make_unique<GrpcServer>(options, coordinator);
  VITSCALE_RETURN_IF_ERROR(server->Listen());
  server->SetServing(true);
  return server;
}

absl::Status CheckExposure(const std::string& what, const HostPort& address, bool insecure) {
  if (insecure || IsLoopback(address.host)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(what, " ", address.ToString(),
                   " is not a loopback address: there is no TLS yet, so others could "
                   "read and command everything; --insecure allows it all the same"));
}

}  // namespace vitscale
