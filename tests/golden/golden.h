// Golden values: files of named tensors that a script in this folder computed with the authors' own
// libraries, and the error measures with which a test compares against them. README.md says how the
// files come about.

#ifndef TESTS_GOLDEN_GOLDEN_H_
#define TESTS_GOLDEN_GOLDEN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/tensor.h"
#include "worker/checkpoint/tensor_file.h"

namespace vitscale::golden {

// tests/golden/data/<name>.safetensors of the source tree. A file or a tensor that is not there
// stops the test program with its name: a golden test without its values is worth nothing.
class GoldenFile {
 public:
  explicit GoldenFile(absl::string_view name);

  bool Has(absl::string_view tensor) const;
  std::vector<std::string> Names() const;
  Shape ShapeOf(absl::string_view tensor) const;
  DType DTypeOf(absl::string_view tensor) const;
  std::string Note(const std::string& key) const;  // metadata; empty if there is none

  // Values of any dtype, widened (i64 above 2^53 would lose bits).
  std::vector<double> Values(absl::string_view tensor) const;
  std::vector<float> Floats(absl::string_view tensor) const;      // of an f32 or bf16 tensor, exact
  std::vector<int64_t> Integers(absl::string_view tensor) const;  // of u8, i32, i64
  std::vector<std::byte> Bytes(absl::string_view tensor) const;
  double Scalar(absl::string_view tensor) const;  // of a tensor with one element

 private:
  const TensorEntry& Entry(absl::string_view tensor) const;

  std::string path_;
  std::unique_ptr<TensorFileReader> reader_;
};

// Path of a file below tests/golden/data.
std::string GoldenPath(absl::string_view file);

// ||actual - truth||_2 / ||truth||_2 in f64. 0 where both are 0 everywhere; infinite where only the
// truth is, where a value is NaN, or where the sizes differ.
double RelativeL2(absl::Span<const double> actual, absl::Span<const double> truth);
double RelativeL2(absl::Span<const float> actual, absl::Span<const double> truth);
double L2(absl::Span<const double> values);

// Distance in units in the last place: how many representable values lie between, plus one; 0 for
// equal values
// (+0 and -0 are equal). Huge (2^32) where one is NaN.
int64_t UlpDistance(float a, float b);
int64_t Bf16UlpDistance(uint16_t a, uint16_t b);
// |actual - truth| in ulps of f32 at the magnitude of truth; fractional, so that a truth in f64 can
// be used.
double UlpError(float actual, double truth);

// Collects the largest error of every comparison and prints one line per name when it goes away:
//   [  GOLDEN  ] adafactor parameter            largest 1.5 bound 4 ulp (tensor mlp step 7)
class ErrorTable {
 public:
  ~ErrorTable();
  // Fails the running test when error > bound or is NaN. `where` says which element, tensor or step
  // it is.
  void Expect(absl::string_view name, double error, double bound, absl::string_view unit,
              absl::string_view where);

 private:
  struct Row {
    std::string name, unit, where;
    double error = 0, bound = 0;
  };
  std::vector<Row> rows_;
};

}  // namespace vitscale::golden

#endif  // TESTS_GOLDEN_GOLDEN_H_
