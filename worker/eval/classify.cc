#include "worker/eval/classify.h"

#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/status.h"
#include "worker/eval/run_batches.h"

namespace vitscale {
namespace {

// This rank's batches, in order.
absl::StatusOr<std::vector<EvalSums>> RunOwnBatches(const ImageSource& source,
                                                    BatchSequence sequence, int64_t batch_size,
                                                    EvalModel& model, int cores) {
  std::vector<EvalSums> sums;
  VITSCALE_RETURN_IF_ERROR(RunBatches(source, std::move(sequence), batch_size, cores,
                                      [&](const Batch& batch, int64_t number) -> absl::Status {
                                        VITSCALE_ASSIGN_OR_RETURN(sums.emplace_back(),
                                                                  model.Evaluate(batch));
                                        return absl::OkStatus();
                                      }));
  return sums;
}

}  // namespace

absl::StatusOr<ClassifyResult> Classify(const ImageSource& source, int64_t batch, EvalModel& model,
                                        Collective& collective, absl::Duration timeout,
                                        bool* collective_failed, int cores) {
  *collective_failed = false;
  const int world_size = collective.world_size();
  VITSCALE_ASSIGN_OR_RETURN(
      std::vector<EvalSums> own,
      RunOwnBatches(source, EvalBatches(source.size(), batch, collective.rank(), world_size), batch,
                    model, cores));
  const int64_t batches = (source.size() + batch - 1) / batch;
  own.resize((batches + world_size - 1) /
             world_size);  // ranks with one batch fewer: a zero at the end
  const auto all = collective.AllGather(
      absl::string_view(reinterpret_cast<const char*>(own.data()), own.size() * sizeof(EvalSums)),
      timeout);
  *collective_failed = !all.ok();
  if (!all.ok()) return all.status();
  ClassifyResult result;
  int64_t correct = 0;
  for (int64_t i = 0; i < batches; ++i) {
    EvalSums sums;
    std::memcpy(&sums, (*all)[i % world_size].data() + i / world_size * sizeof(sums), sizeof(sums));
    result.loss += sums.loss;
    correct += sums.correct;
  }
  result.images = source.size();
  result.loss /= static_cast<double>(result.images);
  result.top1 = static_cast<double>(correct) / static_cast<double>(result.images);
  return result;
}

}  // namespace vitscale
