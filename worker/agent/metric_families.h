// Short forms to build prometheus-cpp's plain metric families. Names:
// prometheus.io/docs/practices/naming.

#ifndef WORKER_AGENT_METRIC_FAMILIES_H_
#define WORKER_AGENT_METRIC_FAMILIES_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "prometheus/metric_family.h"

namespace vitscale::agent {

using MetricLabels = std::map<std::string, std::string>;

// One family to which values are added.
class FamilyBuilder {
 public:
  FamilyBuilder(std::string name, std::string help, prometheus::MetricType type) {
    family_.name = std::move(name);
    family_.help = std::move(help);
    family_.type = type;
  }
  FamilyBuilder& Add(double value, const MetricLabels& labels = {}) {
    prometheus::ClientMetric metric;
    for (const auto& [key, text] : labels) metric.label.push_back({key, text});
    if (family_.type == prometheus::MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    family_.metric.push_back(std::move(metric));
    return *this;
  }
  // A family without values is left out: Prometheus' text format has no use for it.
  void To(std::vector<prometheus::MetricFamily>& families) {
    if (!family_.metric.empty()) families.push_back(std::move(family_));
  }

 private:
  prometheus::MetricFamily family_;
};

inline FamilyBuilder Gauge(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Gauge};
}
inline FamilyBuilder Counter(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Counter};
}

// process_* of this program, as every Prometheus client library names them.
void CollectProcess(std::vector<prometheus::MetricFamily>& families);

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_METRIC_FAMILIES_H_
