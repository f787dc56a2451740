#include "worker/card/peak.h"

namespace vitscale {
namespace {

struct Card {
  const char* name;  // part of what the driver says; the first that fits
  double bf16_tflops, f32_tflops, gigabytes_per_second;
};
// NVIDIA's data sheets of these cards; B200 and GB200 from those of HGX, an eighth.
constexpr Card kCards[] = {
    {"B200", 2250, 75, 8000},
    {"GH200", 989, 67, 4000},
    {"H200 NVL", 835, 60, 4800},
    {"H200", 989, 67, 4800},
    {"H100 NVL", 835, 60, 3900},
    {"H100 PCIe", 756, 51, 2000},
    {"H100", 989, 67, 3350},
    {"A100-SXM4-80GB", 312, 19.5, 2039},
    {"A100 80GB PCIe", 312, 19.5, 1935},
    {"A100", 312, 19.5, 1555},
    {"L40S", 362, 91.6, 864},
    {"L4", 121, 30.3, 300},
    {"A10", 125, 31.2, 600},
};

bool IsWord(absl::string_view text, absl::string_view name) {
  const size_t at = text.find(name);
  if (at == absl::string_view::npos) return false;
  const size_t end = at + name.size();
  return end == text.size() || text[end] == ' ' || text[end] == '-';  // "A100" is no "A10"
}

}  // namespace

std::optional<Peak> PeakOfCard(absl::string_view card, bool bf16) {
  for (const Card& known : kCards) {
    if (!IsWord(card, known.name)) continue;
    return Peak{1e12 * (bf16 ? known.bf16_tflops : known.f32_tflops),
                1e9 * known.gigabytes_per_second};
  }
  return std::nullopt;
}

}  // namespace vitscale
