// What has changed between the job that a checkpoint belongs to and the job that goes on from it.

#ifndef WORKER_CONFIG_CHANGED_FIELDS_H_
#define WORKER_CONFIG_CHANGED_FIELDS_H_

#include <string>
#include <vector>

#include "worker/config/job_config.h"

namespace vitscale {

// `manifest_spec`: the canonical job file in a manifest. "optimizer.lr: was 0.001, is 0.002", one a
// field; empty: none, or the manifest's cannot be read.
std::vector<std::string> ChangedFields(const std::string& manifest_spec, const JobConfig& job);

}  // namespace vitscale

#endif  // WORKER_CONFIG_CHANGED_FIELDS_H_
