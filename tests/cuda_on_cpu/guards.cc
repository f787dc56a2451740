#include "tests/cuda_on_cpu/guards.h"

#include <algorithm>

#include "tests/cuda_on_cpu/device.h"

namespace vitscale::cuda_on_cpu {

void GuardArena(const std::vector<bool>& owned) {
  std::vector<Guard> guards;
  for (auto begin = owned.begin(); begin != owned.end();) {
    begin = std::find(begin, owned.end(), false);
    const auto end = std::find(begin, owned.end(), true);
    if (begin != end) {
      guards.push_back(
          {static_cast<size_t>(begin - owned.begin()), static_cast<size_t>(end - begin)});
    }
    begin = end;
  }
  GuardLastCopied(guards);
}

}  // namespace vitscale::cuda_on_cpu
