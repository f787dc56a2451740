// The main of every test program. SIGPIPE is ignored as in our binaries: a write to a dead peer's socket is
// an error to handle, never a death.

#include <csignal>

#include "gmock/gmock.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
