// The factor of the learning rate (and of weight decay) over steps, and Adafactor's second-moment
// decay. Step k = 0, 1, 2, … is the optimizer count before the update: with a warm-up the first
// step has factor 0.
//
//   s(k) = r(k) * min(1, k / warmup) * min(1, (total - k) / cooldown)
//   rsqrt     r(k) = 1 / sqrt(1 + (k + shift - warmup) / timescale) from k = warmup on, 1 / sqrt(1
//   + shift / timescale) before cosine    r(k) = (1 + cos(pi p)) / 2, with p = (k - warmup) /
//   (total - warmup) cut to [0, 1] linear    r(k) = 1 - p constant  r(k) = 1
// Source: big_vision utils.create_learning_rate_schedule; arXiv 2106.04560 section 3.5 and appendix
// C.

#ifndef WORKER_PLAN_SCHEDULE_H_
#define WORKER_PLAN_SCHEDULE_H_

#include <cstdint>

#include "absl/status/status.h"

namespace vitscale {

enum class ScheduleKind : uint8_t { kRsqrt, kCosine, kLinear, kConstant };

struct ScheduleConfig {  // lengths in steps
  ScheduleKind kind = ScheduleKind::kRsqrt;
  int64_t warmup = 0;
  int64_t timescale = 10000;  // rsqrt only
  int64_t cooldown = 0;
  int64_t total = 0;  // required
  int64_t shift = 0;  // rsqrt only: goes on smoothly after a change of batch
};

// INVALID_ARGUMENT: total < 1, a negative length, timescale < 1 with rsqrt, or a warm-up or
// cooldown above total.
absl::Status ValidateSchedule(const ScheduleConfig& config);

// 0 from k = total on.
double ScheduleFactor(const ScheduleConfig& config, int64_t k);

// min(cap, 1 - (step + 1)^-0.8): 0 on the first step. Source: big_vision optax.py
// scale_by_adafactor.
double AdafactorBeta2(int64_t step, double cap);

}  // namespace vitscale

#endif  // WORKER_PLAN_SCHEDULE_H_
