#include "client/interrupt.h"

#include <unistd.h>

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"

namespace vitscale {
namespace {

// A handler may neither allocate nor lock: what it writes stands ready.
std::array<char, 512> words_of_handler;
volatile std::sig_atomic_t words_size = 0;

void SayAndEnd(int signal) {
  [[maybe_unused]] const ssize_t written =
      write(STDERR_FILENO, words_of_handler.data(), static_cast<size_t>(words_size));
  std::signal(signal, SIG_DFL);
  raise(signal);  // delivered when this handler returns
}

}  // namespace

InterruptWords::InterruptWords(const std::string& words) {
  struct sigaction now {};
  sigaction(SIGINT, nullptr, &now);
  if (now.sa_handler != SIG_DFL) return;
  // Below the progress bar, whose line is not ended.
  std::string text = absl::StrCat("\n", words, "\n");
  text.resize(std::min(text.size(), words_of_handler.size()));
  std::copy(text.begin(), text.end(), words_of_handler.begin());
  words_size = static_cast<std::sig_atomic_t>(text.size());
  struct sigaction action {};
  action.sa_handler = SayAndEnd;
  installed_ = sigaction(SIGINT, &action, nullptr) == 0;
}

InterruptWords::~InterruptWords() {
  if (installed_) std::signal(SIGINT, SIG_DFL);
}

}  // namespace vitscale
