// The command line: one CLI11 tree, one function per group of commands.

#ifndef CLIENT_CLI_H_
#define CLIENT_CLI_H_

#include <string>
#include <vector>

#include "client/context.h"

namespace vitscale {

// Runs `vitscale <arguments>`; the exit code.
int RunCli(const std::vector<std::string>& arguments, Context& context);

}  // namespace vitscale

#endif  // CLIENT_CLI_H_
