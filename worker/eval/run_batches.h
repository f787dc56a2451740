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

// `run` gets each batch with its number in the sequence. The first error ends it.
inline absl::Status RunBatches(const ImageSource& source, BatchSequence sequence,
                               int loader_threads,
                               absl::FunctionRef<absl::Status(const Batch&, int64_t)> run) {
  const int64_t count = sequence.count;
  LoaderOptions options;
  options.threads = loader_threads;
  BatchLoader loader(source, std::move(sequence), options);
  Batch batch;
  for (int64_t i = 0; i < count; ++i) {
    VITSCALE_RETURN_IF_ERROR(loader.Next(&batch));
    VITSCALE_RETURN_IF_ERROR(run(batch, i));
  }
  return absl::OkStatus();
}

}  // namespace vitscale

#endif  // WORKER_EVAL_RUN_BATCHES_H_
