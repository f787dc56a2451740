// A call between gRPC and the gate.

#ifndef SERVER_API_CALL_RPC_H_
#define SERVER_API_CALL_RPC_H_

#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "kernels/base/hash.h"
#include "server/api/coordinator.h"
#include "server/api/rpc_gate.h"

namespace vitscale {

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      StatusDetails(status));
}

// A call that was admitted. Done() counts it; call it once.
class AdmittedCall {
 public:
  AdmittedCall(Coordinator& coordinator, const PeerTable& peers, const char* service,
               const char* method, grpc::CallbackServerContext* context)
      : metrics_(coordinator.metrics()),
        service_(service),
        method_(method),
        start_(absl::Now()),
        principal_(peers.PrincipalOf(context->peer())) {
    const auto deadline = context->deadline();
    const absl::Time time = deadline == std::chrono::system_clock::time_point::max()
                                ? absl::InfiniteFuture()
                                : absl::FromChrono(deadline);
    // gRPC turns "none" into a time that is only almost infinite.
    const bool none = time - start_ > absl::Hours(24 * 365 * 100);
    status_ = AdmitCall(principal_, service, method, none ? absl::InfiniteFuture() : time).status();
  }

  const absl::Status& status() const { return status_; }
  const std::string& principal() const { return principal_; }
  grpc::Status Done(const absl::Status& status) const {
    metrics_.RpcHandled(service_, method_, CodeName(status.code()), absl::Now() - start_);
    return ToGrpc(status);
  }
  // The hash is of method and request without its id.
  template <typename Request>
  Caller CallerOf(Request request) const {
    Caller caller{principal_, request.request_id(), 0};
    request.clear_request_id();
    caller.request_hash = Hash64(request.SerializeAsString(), Hash64(method_));
    return caller;
  }

 private:
  CoordinatorMetrics& metrics_;
  const char* service_;
  const char* method_;
  absl::Time start_;
  std::string principal_;
  absl::Status status_;
};

// Admits a unary call and runs `handle(call, finish)`; `finish(status)` may be called from any
// thread, once.
template <typename Handle>
grpc::ServerUnaryReactor* Unary(Coordinator& coordinator, const PeerTable& peers,
                                const char* service, const char* method,
                                grpc::CallbackServerContext* context, Handle handle) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  AdmittedCall call(coordinator, peers, service, method, context);
  if (!call.status().ok()) {
    reactor->Finish(call.Done(call.status()));
    return reactor;
  }
  handle(call, [reactor, call](const absl::Status& status) { reactor->Finish(call.Done(status)); });
  return reactor;
}

}  // namespace vitscale

#endif  // SERVER_API_CALL_RPC_H_
