// The three kinds of quantities that a job file writes as strings: lengths, durations and sizes.
//
// They have no protobuf in them, so that the engine may carry a Length around until it knows how
// many images an epoch has.

#ifndef PROTO_SPEC_UNITS_H_
#define PROTO_SPEC_UNITS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace vitscale {

enum class LengthUnit { kSteps, kImages, kEpochs };

// How long something lasts in training. Epochs may have up to six decimals; steps and images are
// whole.
struct Length {
  int64_t micros = 0;  // millionths of a unit: 2.5 epochs are 2,500,000
  LengthUnit unit = LengthUnit::kSteps;

  static Length Steps(int64_t steps) { return {steps * 1'000'000, LengthUnit::kSteps}; }
  bool zero() const { return micros == 0; }
  // Whole units; what is left of an epoch is cut off.
  int64_t whole() const { return micros / 1'000'000; }
  friend bool operator==(const Length& a, const Length& b) = default;
};

// "10000 steps", "1 epoch", "0.5 epochs", "1280000 images"; not negative, at most 10^12 of a unit.
// Errors: INVALID_ARGUMENT that says what was wanted.
absl::StatusOr<Length> ParseLength(absl::string_view text);

// The one way to write it: "10000 steps", "1 steps", "0.5 epochs".
std::string FormatLength(const Length& length);

// In optimizer steps. Images are rounded up to a whole step, epochs to the nearest (half up): an
// epoch is floor(train_images / batch_global) steps. Errors: FAILED_PRECONDITION where an epoch
// would have no step.
absl::StatusOr<int64_t> LengthInSteps(const Length& length, int64_t batch_global,
                                      int64_t train_images);

// "90s", "2h", "1h30m", "250ms", "2d"; not negative, finite. Errors: INVALID_ARGUMENT.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text);

// The shortest of h, m, s, ms that is exact: 90 s is "90s", 7,200 s is "2h".
std::string DurationText(absl::Duration duration);

// Bytes: "1024", "64Ki", "64Mi", "2Gi", "1Ti" (powers of 1,024), "64k", "64M", "2G", "1T" (powers
// of 1,000), with or without a final B. Before a unit up to six decimals ("1.5Gi"); what is left of
// a byte is cut off. Errors: INVALID_ARGUMENT.
absl::StatusOr<int64_t> ParseSize(absl::string_view text);

// "64 MiB", "1.8 GiB": three significant digits, for people.
std::string FormatSize(int64_t bytes);

}  // namespace vitscale

#endif  // PROTO_SPEC_UNITS_H_
