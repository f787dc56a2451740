#include "server/metrics/metrics_server.h"

#include <sys/socket.h>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

std::string Request(const HostPort& address, const std::string& head) {
  absl::StatusOr<UniqueFd> socket = ConnectTcp(address, absl::Seconds(5));
  if (!socket.ok()) return socket.status().ToString();
  (void)WriteAll(socket->get(), head + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                 absl::Seconds(5));
  std::string answer;
  char bytes[4096];
  for (ssize_t n; (n = recv(socket->get(), bytes, sizeof(bytes), 0)) > 0;) answer.append(bytes, n);
  return answer;
}

v1::Worker WorkerAt(const std::string& id, const std::string& metrics, v1::WorkerState state) {
  v1::Worker worker;
  worker.set_id(id);
  worker.set_metrics_address(metrics);
  worker.set_state(state);
  return worker;
}

TEST(MetricsServerTest, ServesMetricsAndTargetsOnOnePortAndRefusesTheRest) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      auto server,
      MetricsServer::Start({"127.0.0.1", 0}, {[] { return std::string("a_metric 1\n"); },
                                              [] { return std::vector<v1::Worker>{}; }}));
  ASSERT_NE(server->address().port, 0);
  EXPECT_THAT(Request(server->address(), "GET /metrics"), HasSubstr("a_metric 1"));
  EXPECT_THAT(Request(server->address(), "GET /sd/workers"), HasSubstr("application/json"));
  EXPECT_THAT(Request(server->address(), "GET /etc/passwd"), HasSubstr("404"));
  EXPECT_THAT(Request(server->address(), "POST /metrics"), HasSubstr("405"));
  // Second server on the same port.
  EXPECT_THAT(MetricsServer::Start(server->address(), {}),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(server->address().ToString())));
}

TEST(ServiceDiscoveryTest, ListsTheCoordinatorAndLivingWorkers) {
  const nlohmann::json groups = nlohmann::json::parse(
      ServiceDiscoveryJson("127.0.0.1:1", {WorkerAt("w0", "127.0.0.1:2", v1::WORKER_STATE_BUSY),
                                           WorkerAt("w1", "127.0.0.1:3", v1::WORKER_STATE_LOST),
                                           WorkerAt("w2", "", v1::WORKER_STATE_IDLE)}));
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0]["targets"][0], "127.0.0.1:1");
  EXPECT_EQ(groups[1]["labels"]["worker"], "w0");
}

}  // namespace
}  // namespace vitscale
