// Where the build put fake_trainer.cc: beside the test program.

#ifndef TESTS_WORKER_AGENT_FAKE_TRAINER_PATH_H_
#define TESTS_WORKER_AGENT_FAKE_TRAINER_PATH_H_

#include <string>

#include "kernels/base/files.h"
#include "kernels/base/path.h"

namespace vitscale::agent {

inline std::string FakeTrainerPath() {
  return JoinPath(DirectoryName(*PosixFileSystem().RealPath("/proc/self/exe")),
                  "worker_agent_fake_trainer");
}

}  // namespace vitscale::agent

#endif  // TESTS_WORKER_AGENT_FAKE_TRAINER_PATH_H_
