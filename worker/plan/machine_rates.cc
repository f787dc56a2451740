#include "worker/plan/machine_rates.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/defaults.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr char kHead[] = "vitscale-rates 1";
constexpr int64_t kFileBytesMax = 1 << 20;

using Words = std::vector<std::string>;

bool ReadNumber(const std::string& word, double* number) {
  return absl::SimpleAtod(word, number) && *number > 0 && std::isfinite(*number);
}
bool ReadPrecision(const std::string& word, Precision* precision) {
  for (const Precision known : {Precision::kBf16, Precision::kF32}) {
    if (word != PrecisionName(known)) continue;
    *precision = known;
    return true;
  }
  return false;
}
std::string Rest(const Words& words) { return absl::StrJoin(words.begin() + 1, words.end(), " "); }

bool ReadLine(const Words& words, MachineRates& rates) {
  const std::string& key = words[0];
  double number = 0;
  Precision precision = Precision::kF32;
  if (key == "device" && words.size() > 1) return rates.device = Rest(words), true;
  if (key == "measured" && words.size() > 1) return rates.measured = Rest(words), true;
  if (key == "ceiling" && words.size() == 3) {
    if (!ReadPrecision(words[1], &precision) || !ReadNumber(words[2], &number)) return false;
    return rates.ceiling_flops_per_second[precision] = number, true;
  }
  if (key == "op" && words.size() == 5) {
    int width = 0;
    if (!ReadPrecision(words[1], &precision) || !absl::SimpleAtoi(words[3], &width) || width < 1 ||
        !ReadNumber(words[4], &number)) {
      return false;
    }
    return rates.Add(precision, words[2], width, number), true;
  }
  if (words.size() != 2 || !ReadNumber(words[1], &number)) return false;
  if (key == "threads") return rates.threads = static_cast<int>(std::min(number, 1e6)), true;
  if (key == "memory_bytes_per_second") return rates.memory_bytes_per_second = number, true;
  if (key == "wire_bytes_per_second") return rates.wire_bytes_per_second = number, true;
  return false;
}

double Work(const OpCost& cost) { return cost.flops > 0 ? cost.flops : cost.bytes; }

double Between(const std::map<int, double>& rates, int width) {
  const auto above = rates.lower_bound(width);
  if (above == rates.end()) return rates.rbegin()->second;
  if (above == rates.begin() || above->first == width) return above->second;
  const auto below = std::prev(above);
  const double part =
      std::log(double(width) / below->first) / std::log(double(above->first) / below->first);
  return below->second * std::pow(above->second / below->second, part);
}

}  // namespace

void MachineRates::Add(Precision precision, const std::string& op, int width,
                       double work_per_second) {
  ops_[{precision, op}][width] = work_per_second;
}

double MachineRates::Seconds(Precision precision, const std::string& op, int width,
                             const OpCost& cost) const {
  const auto found = ops_.find({precision, op});
  if (found != ops_.end()) return Work(cost) / Between(found->second, width);
  const auto ceiling = ceiling_flops_per_second.find(precision);
  const double arithmetic =
      ceiling == ceiling_flops_per_second.end() ? 0 : cost.flops / ceiling->second;
  const double memory = memory_bytes_per_second > 0 ? cost.bytes / memory_bytes_per_second : 0;
  return std::max(arithmetic, memory);
}

bool MachineRates::Knows(Precision precision) const {
  return std::any_of(ops_.begin(), ops_.end(),
                     [&](const auto& op) { return op.first.first == precision; });
}

std::string MachineRates::ToText() const {
  std::string text = absl::StrCat(kHead, "\n");
  if (!device.empty()) absl::StrAppend(&text, "device ", device, "\n");
  if (!measured.empty()) absl::StrAppend(&text, "measured ", measured, "\n");
  if (threads > 0) absl::StrAppend(&text, "threads ", threads, "\n");
  const auto rate = [&](const char* key, double value) {
    if (value > 0) absl::StrAppendFormat(&text, "%s %.4g\n", key, value);
  };
  rate("memory_bytes_per_second", memory_bytes_per_second);
  rate("wire_bytes_per_second", wire_bytes_per_second);
  for (const auto& [precision, flops] : ceiling_flops_per_second)
    rate(absl::StrCat("ceiling ", PrecisionName(precision)).c_str(), flops);
  for (const auto& [key, by_width] : ops_) {
    for (const auto& [width, value] : by_width) {
      rate(absl::StrCat("op ", PrecisionName(key.first), " ", key.second, " ", width).c_str(),
           value);
    }
  }
  return text;
}

absl::StatusOr<MachineRates> MachineRates::Parse(absl::string_view text) {
  MachineRates rates;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const Words words = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (number == 1 && absl::StrJoin(words, " ") == kHead) continue;
    if (number > 1 && (words.empty() || ReadLine(words, rates))) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("line ", number, " is \"", absl::CHexEscape(line.substr(0, 80)), "\", wanted ",
                     number == 1 ? kHead : "a rate as vitscale-bench probe writes it"));
  }
  return rates;
}

std::string DefaultRatesPath() { return absl::StrCat(DefaultStateDirectory(), "/rates.txt"); }

absl::StatusOr<MachineRates> ReadRates(const std::string& path) {
  const auto text = PosixFileSystem().ReadFile(path, kFileBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat(
        "no rates at '", path, "': measure a worker's machine once with `vitscale-bench probe`"));
  }
  VITSCALE_RETURN_IF_ERROR(text.status());
  absl::StatusOr<MachineRates> rates = MachineRates::Parse(*text);
  return rates.ok() ? rates : absl::StatusOr<MachineRates>(Annotate(rates.status(), path));
}

}  // namespace vitscale
