#include "server/metrics/metrics_server.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "civetweb.h"
#include "kernels/base/status.h"
#include "nlohmann/json.hpp"

namespace vitscale {
namespace {

void Send(mg_connection* connection, int code, const char* reason, const char* type,
          const std::string& body) {
  mg_printf(
      connection,
      "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
      code, reason, type, body.size());
  mg_write(connection, body.data(), body.size());
}

// civetweb says no more than "cannot bind"; asking the kernel ourselves first gives the reason.
absl::Status CheckBindable(const HostPort& address) { return ListenTcp(address).status(); }

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const HostPort& address,
                                                                    Sources sources) {
  VITSCALE_RETURN_IF_ERROR(CheckBindable(address));
  std::unique_ptr<MetricsServer> server(new MetricsServer(address, std::move(sources)));
  const std::string port = address.ToString();
  const char* options[] = {"listening_ports",    port.c_str(), "num_threads", "2",
                           "request_timeout_ms", "10000",      nullptr};
  mg_callbacks callbacks = {};
  server->context_ = mg_start(&callbacks, nullptr, options);
  if (server->context_ == nullptr) {
    return absl::UnavailableError(absl::StrCat("metrics server cannot listen on ", port));
  }
  mg_server_port bound = {};
  if (mg_get_server_ports(server->context_, 1, &bound) == 1) server->address_.port = bound.port;
  for (const char* path : {"/metrics$", "/sd/workers$"}) {
    mg_set_request_handler(server->context_, path, &MetricsServer::Handle, server.get());
  }
  return server;
}

MetricsServer::~MetricsServer() {
  if (context_ != nullptr) mg_stop(context_);
}

int MetricsServer::Handle(mg_connection* connection, void* self) {
  const MetricsServer& server = *static_cast<MetricsServer*>(self);
  const mg_request_info& request = *mg_get_request_info(connection);
  const std::string method = request.request_method, path = request.local_uri;
  if (method != "GET" && method != "HEAD") {
    Send(connection, 405, "Method Not Allowed", "text/plain", "only GET is served here\n");
    return 405;
  }
  if (path == "/metrics") {
    Send(connection, 200, "OK", "text/plain; version=0.0.4; charset=utf-8",
         server.sources_.metrics());
  } else {
    Send(connection, 200, "OK", "application/json",
         ServiceDiscoveryJson(server.address_.ToString(), server.sources_.workers()));
  }
  return 200;
}

std::string ServiceDiscoveryJson(const std::string& coordinator,
                                 const std::vector<v1::Worker>& workers) {
  nlohmann::json groups = nlohmann::json::array();
  groups.push_back({{"targets", {coordinator}}, {"labels", {{"component", "coordinator"}}}});
  for (const v1::Worker& worker : workers) {
    if (worker.state() == v1::WORKER_STATE_LOST || worker.metrics_address().empty()) continue;
    groups.push_back({{"targets", {worker.metrics_address()}},
                      {"labels", {{"component", "worker"}, {"worker", worker.id()}}}});
  }
  return groups.dump();
}

}  // namespace vitscale
