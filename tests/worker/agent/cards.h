// A card as its driver tells it.

#ifndef TESTS_WORKER_AGENT_CARDS_H_
#define TESTS_WORKER_AGENT_CARDS_H_

#include <cstdint>

#include "worker/card/nvml.h"

namespace vitscale::agent {

inline Card SomeCard() {
  Card card;
  card.name = "NVIDIA H100 80GB HBM3";
  card.uuid = "GPU-aaaa";
  card.driver = "580.82.07";
  card.sm = 90;
  card.memory_bytes = int64_t{80} << 30;
  card.free_bytes = int64_t{79} << 30;
  return card;
}

}  // namespace vitscale::agent

#endif  // TESTS_WORKER_AGENT_CARDS_H_
