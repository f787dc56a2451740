// Few-shot linear evaluation: how well classes can be told apart by a linear regression on frozen
// features, learned from a few images per class.
//
// Source: "Scaling Vision Transformers" (arXiv 2106.04560), section 2; big_vision
// evaluators/fewshot_lsr.py: draws (shots.h), regression (ridge.h), plain accuracy, mean over
// seeds 0, 1, …
//
// Spread over the ranks of a generation: batches of images are dealt in turn, features of the
// drawn images go to every rank, each regression is solved by one rank and told to the others, and
// a rank predicts the images it has. Every image is counted once whatever the number of ranks.
// Batches are the same for any number of ranks, so the result is as well, to the last bit, where
// all ranks have the same kind of CPU.

#ifndef WORKER_EVAL_FEW_SHOT_H_
#define WORKER_EVAL_FEW_SHOT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/collective/collective.h"
#include "worker/data/source.h"
#include "worker/eval/eval_model.h"

namespace vitscale {

struct FewShotOptions {
  std::vector<int> shots = {1, 5, 10, 25};  // images per class
  std::vector<double> l2 = {1024};          // each is measured
  int seeds = 3;
  int64_t batch = 0;                        // images of the model's batch
  int cores = 1;                            // see RunBatches
  absl::Duration timeout = absl::Hours(1);  // of each exchange: the slowest rank's share
  std::function<bool()> cancelled = [] { return false; };  // asked between batches and solutions
};

struct FewShotResult {
  int64_t images = 0;                         // predicted, once a seed
  std::vector<std::vector<double>> accuracy;  // [shots][l2], mean over seeds
};

// Every rank calls it with the same options and sets. `collective_failed` says whether an error
// came from an exchange. Errors: INVALID_ARGUMENT as CheckFewShotLabels says; FAILED_PRECONDITION
// naming the first image whose features are not finite, on every rank; CANCELLED; those of the
// sources, the model, the collective and Ridge::Fit.
absl::StatusOr<FewShotResult> FewShot(const FewShotOptions& options, const ImageSource& support,
                                      const ImageSource& data, FeatureModel& model,
                                      Collective& collective, bool* collective_failed);

// Labels of `support` define the classes: 0 to its greatest label. INVALID_ARGUMENT naming the
// first image of `data` that is outside of them. A class without images is never predicted right,
// no error.
absl::Status CheckFewShotLabels(const ImageSource& support, const ImageSource& data);

// Values of a record, shares of images: "10shot" for 10 shots. With several strengths there is
// "10shot_l2_1024" for each, and "10shot" is the best of them.
std::map<std::string, double> FewShotValues(const FewShotOptions& options,
                                            const FewShotResult& result);

}  // namespace vitscale

#endif  // WORKER_EVAL_FEW_SHOT_H_
