// Credentials and channels of every gRPC connection of vitscale: the one place where TLS will be
// switched on.
//
// Until then both sides are plain, which is why a daemon binds to loopback or a Unix socket unless
// it is told --insecure.

#ifndef PROTO_RPC_CHANNEL_RPC_H_
#define PROTO_RPC_CHANNEL_RPC_H_

#include <memory>

#include "grpcpp/channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "kernels/base/net.h"

namespace vitscale {

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials();
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials();

struct ChannelOptions {
  int reconnect_max_ms = 1000;  // longest pause between two attempts to connect
  const char* service_config = nullptr;  // JSON, such as a retry policy; null: none
};

// Connects lazily. No proxy from the environment (it would catch loopback and cluster links too); a
// ping every 20 s also without calls, so that a dead peer is noticed; the default limit of 4 MiB a
// message. An attempt to connect may take 5 s; attempts follow each other after 0.1 s at first.
std::shared_ptr<grpc::Channel> MakeChannel(const Address& address,
                                           const ChannelOptions& options = {});

// What a server must allow so that MakeChannel's pings are no "too_many_pings": one per 10 s, also
// without calls.
void AllowKeepalive(grpc::ServerBuilder& builder);

}  // namespace vitscale

#endif  // PROTO_RPC_CHANNEL_RPC_H_
