// The command line of vitscale-bench.

#ifndef WORKER_BENCH_COMMANDS_H_
#define WORKER_BENCH_COMMANDS_H_

#include <iosfwd>

namespace vitscale {

// Parses, measures, prints. Returns the exit code: 0, 1 failed, 2 usage.
int RunBench(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace vitscale

#endif  // WORKER_BENCH_COMMANDS_H_
