// Small models with values made from a seed, and files of every kind, good and bad.

#ifndef TESTS_WORKER_WEIGHTS_WEIGHTS_TEST_UTIL_H_
#define TESTS_WORKER_WEIGHTS_WEIGHTS_TEST_UTIL_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "worker/weights/export_weights.h"
#include "worker/weights/import_weights.h"

namespace vitscale {

// Patch 4, width 16, 2 heads, mlp width 24, image 12 (9 patches), 5 classes, depth 2.
ModelConfig TestModel(PoolKind pool = PoolKind::kMap);
// Every parameter different, -0 and denormals among them.
Weights TestWeights(const ModelConfig& model, uint64_t seed = 1);

// A tensor of a file that a test makes.
struct FileTensor {
  std::string name;
  Shape shape;
  std::vector<float> values;
};
// What export would write, to be changed and written by WriteFile. Names with prefix.
std::vector<FileTensor> TensorsOf(const Weights& weights, const std::string& format,
                                  bool without_head = false);
void WriteFile(const std::string& path, const std::vector<FileTensor>& tensors, bool npz);

// A zip of entries with the content given, whatever it is.
enum class ZipMethod { kStored, kDeflated };
std::string MakeZip(const std::vector<std::pair<std::string, std::string>>& entries,
                    ZipMethod method = ZipMethod::kStored);
// One deflated entry: `content` and then so many zeros.
std::string MakeZipBomb(const std::string& name, const std::string& content, int64_t zeros);
// A .npy file with any text as its dictionary.
std::string MakeNpy(const std::string& dictionary, const std::string& data, int version = 1);

// A folder of its own for each test.
class WeightsTest {
 public:
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  std::string Write(const std::string& name, absl::string_view bytes) const;
  std::string Read(const std::string& path) const;

 private:
  TemporaryDirectory folder_;
};

MATCHER_P(IsOkAndHolds, value_matcher, "") {
  if (!arg.ok()) {
    *result_listener << arg.status().ToString();
    return false;
  }
  return testing::ExplainMatchResult(value_matcher, *arg, result_listener);
}

// Bit for bit, gaps included.
bool SameBits(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace vitscale

#endif  // TESTS_WORKER_WEIGHTS_WEIGHTS_TEST_UTIL_H_
