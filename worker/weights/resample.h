// Learned positions on another grid.

#ifndef WORKER_WEIGHTS_RESAMPLE_H_
#define WORKER_WEIGHTS_RESAMPLE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace vitscale {

// [from * from, width] on a grid of `from` rows and columns -> [to * to, width]. Bilinear with the
// corners aligned: row i of the new grid lies at i * (from - 1) / (to - 1) of the old one. In f64,
// rounded once at the end.
//
// Source: big_vision models/vit.py resample_posemb, which is scipy.ndimage.zoom with order 1; same
// bits as scipy 1.17.1. (For some pairs such as 16 -> 30 scipy computes the last row and column a
// rounding error outside of the grid and fills them with zeros. Here they are the old last row and
// column.)
std::vector<float> ResamplePositions(absl::Span<const float> positions, int64_t from, int64_t to,
                                     int64_t width);

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_RESAMPLE_H_
