// The runs of optimizer.py on our ops: the same gradients and first parameters, GradStats and the
// update on a backend, and how far a step is from the truth in f64.

#ifndef TESTS_GOLDEN_OPTIMIZER_RUN_H_
#define TESTS_GOLDEN_OPTIMIZER_RUN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend_factory.h"
#include "tests/golden/golden.h"

namespace vitscale::golden {

// One tensor of a run: what optimizer.py stored of it, and where it lies in our arenas.
struct RunTensor {
  std::string name;
  Shape shape;
  OptimizedTensor op;
  std::vector<float> draws;
  std::vector<int64_t> places, moment_places;
  std::vector<double> parameter, momentum, moment;  // truth, [steps, places]
};

class OptimizerRun {
 public:
  // `run` is a name of RUNS in optimizer.py; `rule` is "adafactor", "adamw" or "sgd".
  OptimizerRun(const std::string& run, const std::string& rule, int zero_steps,
               const std::string& instruction_set);

  int64_t steps() const { return static_cast<int64_t>(schedule_.size()); }
  // Starts from the stored values of step k - 1, takes step k and puts the errors into `table`.
  void Step(int64_t k, ErrorTable& table);

 private:
  void AddTensor(const std::string& name, int index);
  void Prepare();
  void WriteGradient(const RunTensor& tensor, int64_t k);
  void Restart(const RunTensor& tensor, int64_t k);
  void Judge(const RunTensor& tensor, int64_t k, ErrorTable& table);
  void JudgeMoment(const RunTensor& tensor, int64_t k, ErrorTable& table);

  template <typename T>
  T* Memory(const TensorView& view) {
    return reinterpret_cast<T*>(backend_->HostBytes(view.arena).data() + view.offset);
  }
  TensorView Place(const std::string& name, Arena arena, DType dtype, Shape shape);

  GoldenFile file_;
  std::string run_, rule_, instruction_set_;
  int zero_steps_;
  std::vector<double> schedule_;
  std::vector<float> scale_;
  std::vector<RunTensor> tensors_;
  ArenaBytes bytes_{};
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<PreparedProgram> program_;
  std::vector<std::vector<float>> before_;  // sampled parameters before the step
};

}  // namespace vitscale::golden

#endif  // TESTS_GOLDEN_OPTIMIZER_RUN_H_
