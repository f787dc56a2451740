// vitscale: the command line. Everything is in cli.cc; here only the process is wired up.

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "client/cli.h"
#include "client/control_client_rpc.h"

namespace {

int TerminalColumns() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a coordinator that goes away is an error to handle
  std::ios::sync_with_stdio(false);
  vitscale::Context context{std::cout, std::cerr, std::cin};
  context.out_is_terminal = isatty(STDOUT_FILENO) != 0 && Environment("TERM") != "dumb";
  context.color = context.out_is_terminal && Environment("NO_COLOR").empty();
  context.columns = TerminalColumns();
  context.environment = Environment;
  context.connect = vitscale::ConnectToCoordinator;
  const int code = vitscale::RunCli(std::vector<std::string>(argv + 1, argv + argc), context);
  std::cout.flush();
  return code;
}
