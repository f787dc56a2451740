// The update rule as plain numbers; worker/config fills it, BuildUpdate turns it into an op.

#ifndef WORKER_MODEL_OPTIMIZER_CONFIG_H_
#define WORKER_MODEL_OPTIMIZER_CONFIG_H_

#include <cstdint>

namespace vitscale {

enum class OptimizerKind : uint8_t { kAdafactor, kAdamW, kSgd };

constexpr const char* OptimizerKindName(OptimizerKind kind) {
  constexpr const char* kNames[] = {"adafactor", "adamw", "sgd"};
  return kNames[static_cast<int>(kind)];
}

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::kAdafactor;
  double learning_rate = 0;  // base; StepScalars::schedule multiplies it step by step
  double beta1 = 0.9;        // first moment
  double beta2_cap =
      0.999;  // Adafactor: cap of 1 - t^-0.8 (see AdafactorBeta2 in worker/plan/schedule.h)
  double beta2 = 0.999;      // AdamW
  double clip_norm = 1.0;    // global norm; 0: off
  double decay_body = 0.03;  // AdamW's terms: schedule * learning_rate * decay * parameter per step
  double decay_head = 3.0;
  double polyak_decay = 0.9999;  // used when the plan keeps an average
};

}  // namespace vitscale

#endif  // WORKER_MODEL_OPTIMIZER_CONFIG_H_
