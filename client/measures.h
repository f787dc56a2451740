// What evaluations measured, in an order for people. Names: EvalRecord.values in
// proto/vitscale/v1/job.proto.

#ifndef CLIENT_MEASURES_H_
#define CLIENT_MEASURES_H_

#include <string>
#include <vector>

#include "vitscale/v1/job.pb.h"

namespace vitscale {

struct Measure {
  std::string name;
  double value = 0;
  int shots = 0;       // images per class; 0: no few-shot accuracy
  bool swept = false;  // one of several strengths: "10shot_l2_1024"

  // Shares of images as per cent, other numbers with 4 digits.
  std::string Text() const;
};

// top1 before loss; few-shot by the number of shots, each followed by its strengths.
std::vector<Measure> MeasuresOf(const v1::EvalRecord& eval);

}  // namespace vitscale

#endif  // CLIENT_MEASURES_H_
