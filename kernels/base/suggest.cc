#include "kernels/base/suggest.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace vitscale {
namespace {

// Optimal string alignment distance, by dynamic programming over prefixes.
int EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<int>> cost(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = static_cast<int>(i);
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const int replaced = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

}  // namespace

std::string ClosestName(absl::string_view name, const std::vector<std::string>& candidates) {
  constexpr size_t kLongest = 200;  // names are short; a long one is not a slip of the finger
  if (name.size() > kLongest) return "";
  std::string best;
  int best_distance = 1 << 20;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kLongest) continue;
    const int distance =
        EditDistance(absl::AsciiStrToLower(name), absl::AsciiStrToLower(candidate));
    const int allowed = std::max<int>(1, std::max(name.size(), candidate.size()) / 3);
    if (distance <= allowed && distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string DidYouMean(absl::string_view name, const std::vector<std::string>& candidates) {
  const std::string best = ClosestName(name, candidates);
  return best.empty() ? "" : absl::StrCat(", did you mean \"", best, "\"?");
}

}  // namespace vitscale
