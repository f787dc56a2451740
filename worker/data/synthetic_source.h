// Images made from a seed, for benchmarks and tests: nothing is read, nothing is stored, and a
// model can learn them.
//
// Each class has a pattern, a grid of 4 x 4 grey values per channel drawn from [64, 192) and shown
// as blocks; an image is the pattern of its class plus independent noise, uniform in [-48, 48), per
// pixel and channel. Labels are uniform. Every value is a counter-based draw
// (kernels/base/philox.h) keyed by (seed, sample or class).

#ifndef WORKER_DATA_SYNTHETIC_SOURCE_H_
#define WORKER_DATA_SYNTHETIC_SOURCE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/data/source.h"

namespace vitscale {

// INVALID_ARGUMENT unless images, classes, height, width and channels are positive.
absl::StatusOr<std::unique_ptr<ImageSource>> MakeSyntheticSource(int64_t images,
                                                                 const SourceRequest& request);

}  // namespace vitscale

#endif  // WORKER_DATA_SYNTHETIC_SOURCE_H_
