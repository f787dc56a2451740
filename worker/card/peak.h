// The most a card can do, from its maker's data sheet.

#ifndef WORKER_CARD_PEAK_H_
#define WORKER_CARD_PEAK_H_

#include <optional>

#include "absl/strings/string_view.h"

namespace vitscale {

struct Peak {
  double flops_per_second = 0;
  double bytes_per_second = 0;
};

// Dense, without sparsity; f32 without TF32. None for a card that is not in the table. `card` is
// what the driver calls it: "NVIDIA H100 80GB HBM3".
std::optional<Peak> PeakOfCard(absl::string_view card, bool bf16);

}  // namespace vitscale

#endif  // WORKER_CARD_PEAK_H_
