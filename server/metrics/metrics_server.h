// GET /metrics and GET /sd/workers over HTTP, by civetweb (the server that prometheus-cpp brings;
// its Exposer serves /metrics alone).

#ifndef SERVER_METRICS_METRICS_SERVER_H_
#define SERVER_METRICS_METRICS_SERVER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/net.h"
#include "vitscale/v1/job.pb.h"

struct mg_context;
struct mg_connection;

namespace vitscale {

class MetricsServer {
 public:
  struct Sources {
    std::function<std::string()> metrics;              // Prometheus text
    std::function<std::vector<v1::Worker>()> workers;  // for service discovery
  };

  // Binds and serves. The port in use is ALREADY_EXISTS naming the address; port 0: any.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const HostPort& address,
                                                              Sources sources);
  ~MetricsServer();  // may take 2 s: civetweb's poll interval

  const HostPort& address() const { return address_; }

 private:
  MetricsServer(HostPort address, Sources sources)
      : address_(std::move(address)), sources_(std::move(sources)) {}
  static int Handle(mg_connection* connection, void* self);

  HostPort address_;
  Sources sources_;
  mg_context* context_ = nullptr;
};

// The answer of /sd/workers: [{"targets": ["127.0.0.1:7481"], "labels": {"component":
// "coordinator"}}, …], one entry per worker that is not lost and serves /metrics, labelled with
// `component` and `worker`. Format: prometheus.io/docs/prometheus/latest/http_sd.
std::string ServiceDiscoveryJson(const std::string& coordinator,
                                 const std::vector<v1::Worker>& workers);

}  // namespace vitscale

#endif  // SERVER_METRICS_METRICS_SERVER_H_
