#include "worker/bench/tables.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vitscale {
namespace {

using nlohmann::json;

// Milliseconds, but for what takes long enough to be waited for.
std::string SecondsText(double seconds) {
  return seconds < 10 ? absl::StrFormat("%.4g ms", 1e3 * seconds)
                      : absl::StrFormat("%.1f s", seconds);
}

// The unit is the end of the key.
std::string ValueText(const std::string& key, const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_number()) return value.dump();
  const double number = value.get<double>();
  if (absl::EndsWith(key, "flops_per_second")) return absl::StrFormat("%.4g GFLOP/s", number / 1e9);
  if (absl::EndsWith(key, "bytes_per_second")) return absl::StrFormat("%.4g GB/s", number / 1e9);
  if (absl::EndsWith(key, "bytes")) {
    return number < 1e6 ? absl::StrFormat("%.4g kB", number / 1e3)
                        : absl::StrFormat("%.4g MB", number / 1e6);
  }
  if (absl::EndsWith(key, "share")) return absl::StrFormat("%.1f %%", 100 * number);
  if (absl::StrContains(key, "seconds")) return SecondsText(number);
  return value.is_number_float() ? absl::StrFormat("%.5g", number) : value.dump();
}

std::string Scalars(const json& report) {
  std::string text;
  for (const auto& [key, value] : report.items()) {
    if (value.is_structured()) continue;
    const bool rate = absl::EndsWith(key, "images_per_second");
    absl::StrAppendFormat(
        &text, "%-26s %s\n", key,
        rate ? absl::StrFormat("%.5g", value.get<double>()) : ValueText(key, value));
  }
  return text;
}

std::string Phases(const json& phases) {
  double sum = 0;
  for (const auto& [phase, seconds] : phases.items()) sum += seconds.get<double>();
  std::string text = "\nphases\n";
  for (const auto& [phase, seconds] : phases.items()) {
    absl::StrAppendFormat(&text, "  %-24s %10.5g ms %6.1f %%\n", phase, 1e3 * seconds.get<double>(),
                          100 * seconds.get<double>() / sum);
  }
  return text;
}

std::string ByThreads(const json& list) {
  std::string text = "\nthreads  images/s\n";
  for (const json& row : list) {
    absl::StrAppendFormat(&text, "%7d %9.1f\n", row["threads"].get<int>(),
                          row["images_per_second"].get<double>());
  }
  return text;
}

std::string Sides(const json& sides) {
  std::string text = "\n  step ms   range              waits ms  of single  hidden  side\n";
  for (const json& side : sides) {
    const auto share = [&](const char* key) {
      return side.contains(key) ? absl::StrFormat("%.1f %%", 100 * side[key].get<double>()) : "";
    };
    const auto millis = [&](const char* key) { return 1e3 * side[key].get<double>(); };
    absl::StrAppendFormat(&text, "%9.1f   %7.1f - %7.1f  %8.2f  %9s  %6s  %s (%s)\n",
                          millis("step_seconds"), millis("step_seconds_min"),
                          millis("step_seconds_max"), millis("exposed_seconds"),
                          share("ratio_share"), share("hidden_share"),
                          side["name"].get<std::string>(), side["algorithm"].get<std::string>());
  }
  return text;
}

std::string Variants(const json& counts) {
  std::string text = "\ncount  variant\n";
  for (const auto& [name, count] : counts.items()) {
    absl::StrAppendFormat(&text, "%5d  %s\n", count.get<int>(), name);
  }
  return text;
}

std::string Roofline(const json& list) {
  constexpr double kShareMin = 0.002;  // less is not worth a line
  std::string text =
      "\nroofline: share of the time, and of the ceiling of what bounds it\n"
      "       ms   time  ceiling  bound    ops\n";
  for (const json& row : list) {
    if (row["share"].get<double>() < kShareMin) continue;
    absl::StrAppendFormat(&text, "%9.3f %5.1f%%  %6.1f%%  %-7s  %s\n",
                          1e3 * row["seconds"].get<double>(), 100 * row["share"].get<double>(),
                          100 * row["ceiling_share"].get<double>(), row["bound"].get<std::string>(),
                          row["name"].get<std::string>());
  }
  return text;
}

std::string Tallies(const json& list, const char* title) {
  std::string text = absl::StrFormat("\n%9s %6s %6s %9s %8s  %s\n", "ms", "share", "count",
                                     "GFLOP/s", "GB/s", title);
  double total = 0;
  for (const json& row : list) {
    total += row["seconds"].get<double>();
    absl::StrAppendFormat(&text, "%9.3f %5.1f%% %6d %9.1f %8.2f  %s\n",
                          1e3 * row["seconds"].get<double>(), 100 * row["share"].get<double>(),
                          row["count"].get<int>(), row["flops_per_second"].get<double>() / 1e9,
                          row["bytes_per_second"].get<double>() / 1e9,
                          row["name"].get<std::string>());
  }
  return absl::StrCat(text, absl::StrFormat("%9.3f  sum\n", 1e3 * total));
}

}  // namespace

std::string TableOf(const json& report) {
  std::string text = Scalars(report);
  if (report.contains("phases")) text += Phases(report["phases"]);
  if (report.contains("by_threads")) text += ByThreads(report["by_threads"]);
  if (report.contains("sides")) text += Sides(report["sides"]);
  if (report.contains("groups")) text += Tallies(report["groups"], "as in a step");
  if (report.contains("ops")) text += Tallies(report["ops"], "each op alone, whole batch");
  if (report.contains("variants")) text += Variants(report["variants"]);
  if (report.contains("roofline")) text += Roofline(report["roofline"]);
  return text;
}

}  // namespace vitscale
