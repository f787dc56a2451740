// Runs a sequence of batches of one source through a function, on the calling thread, while a
// loader makes the next ones.

#ifndef WORKER_EVAL_RUN_BATCHES_H_
#define WORKER_EVAL_RUN_BATCHES_H_

#include <cstdint>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/base/status.h"
#include "worker/data/loader.h"
#include "worker/data/source.h"

namespace vitscale {

// `run` gets each batch of `batch_size` images with its number in the sequence. The first error
// ends it. `cores`: what this rank may use for a source that decodes.
inline absl::Status RunBatches(const ImageSource& source, BatchSequence sequence,
                               int64_t batch_size, int cores,
                               absl::FunctionRef<absl::Status(const Batch&, int64_t)> run) {
  const int64_t count = sequence.count;
  BatchLoader loader(source, std::move(sequence), LoaderOptionsFor(source, batch_size, cores));
  Batch batch;
  for (int64_t i = 0; i < count; ++i) {
    VITSCALE_RETURN_IF_ERROR(loader.Next(&batch));
    VITSCALE_RETURN_IF_ERROR(run(batch, i));
  }
  return absl::OkStatus();
}

}  // namespace vitscale

#endif  // WORKER_EVAL_RUN_BATCHES_H_
