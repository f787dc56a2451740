// vitscale-bench: what a step costs on this machine, op by op, what is around it (sums, data,
// checkpoints), and what the machine could do at most. commands.cc has the examples.

#include <csignal>
#include <iostream>

#include "worker/bench/commands.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  return vitscale::RunBench(argc, argv, std::cout, std::cerr);
}
