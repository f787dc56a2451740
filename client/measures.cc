#include "client/measures.h"

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "client/text.h"

namespace vitscale {
namespace {

constexpr absl::string_view kShot = "shot", kStrength = "shot_l2_";

struct Sorted {
  Measure measure;
  double strength = -1;
};

Sorted Read(const std::string& name, double value) {
  Sorted read{{name, value}};
  const absl::string_view text = name;
  const size_t at = text.find(kShot);
  if (at == absl::string_view::npos || !absl::SimpleAtoi(text.substr(0, at), &read.measure.shots)) {
    read.measure.shots = 0;
    return read;
  }
  const absl::string_view rest = text.substr(at);
  read.measure.swept = absl::StartsWith(rest, kStrength);
  if (read.measure.swept && !absl::SimpleAtod(rest.substr(kStrength.size()), &read.strength)) {
    read.strength = 0;
  }
  return read;
}

}  // namespace

std::string Measure::Text() const {
  const bool share = shots > 0 || absl::StartsWith(name, "top") || name == "accuracy";
  return share ? absl::StrFormat("%.2f %%", 100 * value) : Significant(value, 4);
}

std::vector<Measure> MeasuresOf(const v1::EvalRecord& eval) {
  std::vector<Sorted> sorted;
  for (const auto& [name, value] : eval.values()) sorted.push_back(Read(name, value));
  std::sort(sorted.begin(), sorted.end(), [](const Sorted& a, const Sorted& b) {
    return std::tie(a.measure.shots, a.strength, b.measure.name) <
           std::tie(b.measure.shots, b.strength, a.measure.name);
  });
  std::vector<Measure> measures;
  for (Sorted& each : sorted) measures.push_back(std::move(each.measure));
  return measures;
}

}  // namespace vitscale
