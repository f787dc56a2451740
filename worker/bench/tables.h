// A report of vitscale-bench as tables for people.

#ifndef WORKER_BENCH_TABLES_H_
#define WORKER_BENCH_TABLES_H_

#include <string>

#include "nlohmann/json.hpp"

namespace vitscale {

// What stands at the top level, one a line, rates and bytes in units that can be read; then
// phases, images a second by threads, the roofline and the lists of ops where the report has them.
std::string TableOf(const nlohmann::json& report);

}  // namespace vitscale

#endif  // WORKER_BENCH_TABLES_H_
