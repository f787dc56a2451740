// "did you mean": the nearest of the names that would have been right.

#ifndef KERNELS_BASE_SUGGEST_H_
#define KERNELS_BASE_SUGGEST_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace vitscale {

// The candidate nearest to `name` by edit distance (insert, delete, replace, swap of neighbours), letter case
// ignored; "" if none is nearer than a third of the longer of the two (at least one edit is allowed).
std::string ClosestName(absl::string_view name, const std::vector<std::string>& candidates);

// ", did you mean \"x\"?" or "".
std::string DidYouMean(absl::string_view name, const std::vector<std::string>& candidates);

}  // namespace vitscale

#endif  // KERNELS_BASE_SUGGEST_H_
