#include <algorithm>
#include <numeric>

#include "kernels/base/status.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {

std::vector<int> ShareParts(const std::vector<int64_t>& tensor_bytes, int world_size) {
  VITSCALE_CHECK(world_size >= 1) << world_size;
  std::vector<size_t> order(tensor_bytes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tensor_bytes[a] > tensor_bytes[b]; });
  std::vector<int64_t> load(world_size);
  std::vector<int> ranks(tensor_bytes.size());
  for (const size_t tensor : order) {
    const auto least = std::min_element(load.begin(), load.end());  // the lowest rank among equals
    *least += tensor_bytes[tensor];
    ranks[tensor] = static_cast<int>(least - load.begin());
  }
  return ranks;
}

}  // namespace vitscale
