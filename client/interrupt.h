// Last words of a program that waits for a job and is interrupted: the job does not end with it.

#ifndef CLIENT_INTERRUPT_H_
#define CLIENT_INTERRUPT_H_

#include <csignal>
#include <string>

namespace vitscale {

// While it lives, SIGINT writes `words` and a line break to standard error and then ends the
// process as it would have without it. One at a time; does nothing where SIGINT is ignored or
// handled already.
class InterruptWords {
 public:
  explicit InterruptWords(const std::string& words);
  ~InterruptWords();
  InterruptWords(const InterruptWords&) = delete;
  InterruptWords& operator=(const InterruptWords&) = delete;

 private:
  bool installed_ = false;
};

}  // namespace vitscale

#endif  // CLIENT_INTERRUPT_H_
