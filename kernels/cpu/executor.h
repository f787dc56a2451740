// Runs a prepared program: every thread walks the same list of steps and takes its own share of
// each.

#ifndef KERNELS_CPU_EXECUTOR_H_
#define KERNELS_CPU_EXECUTOR_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_pool.h"

namespace vitscale::cpu {

// One op outside panel groups or a run of independent ones, the ops of one panel group, or a
// marker.
struct Step {
  enum class Kind { kOp, kGroup, kGradientsReady, kPhase };
  Kind kind = Kind::kOp;
  std::vector<std::unique_ptr<CpuOp>> ops;
  int64_t batch = 0;        // kGroup
  int64_t panel_items = 1;  // kGroup: images that a thread takes through the whole group at a time
  int bucket = 0;           // kGradientsReady
  std::string phase;        // kPhase
};

class CpuProgram : public PreparedProgram {
 public:
  std::vector<Step> steps;
  std::vector<Memory> reserved;  // what the ops asked for by Reserve
  int64_t scratch_bytes = 0;     // of each thread
};

// Images per panel: rows of about kPanelRows, whole images, and never a function of the number of
// threads.
int64_t PanelItems(int64_t batch, int64_t tokens_max);

// `scratch`: of each thread, at least program.scratch_bytes.
void Execute(const CpuProgram& program, const std::vector<Memory>& scratch, ThreadPool& pool,
             const StepScalars& scalars, MarkerSink* sink);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_EXECUTOR_H_
