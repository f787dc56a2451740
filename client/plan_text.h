// `vitscale plan`: the planner's numbers for people and scripts. No I/O.

#ifndef CLIENT_PLAN_TEXT_H_
#define CLIENT_PLAN_TEXT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/context.h"
#include "worker/config/job_config.h"
#include "worker/plan/plan.h"

namespace vitscale {

// The plan of a job for a worker with `memory_bytes` (0: not limited): micro-batch chosen as at
// submit where the job leaves it open, precision auto planned as bf16. RESOURCE_EXHAUSTED when it
// cannot fit.
absl::StatusOr<Plan> PlanJob(const JobConfig& job, int64_t memory_bytes);

// "a worker on the CPU with 16 GiB": what PlanJob planned for, and that the coordinator may choose
// another micro-batch for a job that takes any device.
std::string PlannedFor(const JobConfig& job, int64_t memory_bytes);

// One line. Times only where the rates tell.
std::string PlanJson(const Plan& plan, const std::vector<int>& workers,
                     const ReportOptions& options);

struct VariantRow {
  std::string name;
  ModelShape shape;
  int64_t tokens = 0, parameters = 0;
  Flops flops;
  int64_t state_bytes = 0;  // parameters, momentum, second moment (Adafactor)
  // As arXiv 2106.04560 table 2 counts: without MAP head and classifier, at 224 and 384 pixels.
  int64_t body_parameters = 0;  // at 224
  double paper_flops_224 = 0, paper_flops_384 = 0;
};

// Every named variant with a MAP head.
absl::StatusOr<std::vector<VariantRow>> PlanVariants(int classes, int image_size);
std::string VariantsText(const std::vector<VariantRow>& rows, OutputFormat format);

// Millions with the digits of the paper's table: "5.4", "22", "1843".
std::string PaperMillions(int64_t parameters);

}  // namespace vitscale

#endif  // CLIENT_PLAN_TEXT_H_
