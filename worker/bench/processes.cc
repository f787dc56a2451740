#include "worker/bench/processes.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/base/unique_fd.h"

namespace vitscale {
namespace {

using nlohmann::json;
using Body = std::function<absl::StatusOr<json>(int)>;

struct Process {
  pid_t pid = -1;
  UniqueFd answer;  // none: it has been awaited
};

// An answer is {"code", "message"} or {"value"}.
std::string AnswerText(const absl::StatusOr<json>& result) {
  if (result.ok()) return json{{"value", *result}}.dump();
  return json{{"code", static_cast<int>(result.status().code())},
              {"message", std::string(result.status().message())}}
      .dump();
}

void WriteAll(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    done += n;
  }
}

std::string ReadAll(int fd) {
  std::string text;
  char piece[4096];
  while (true) {
    const ssize_t n = read(fd, piece, sizeof(piece));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return text;
    text.append(piece, n);
  }
}

absl::StatusOr<Process> Start(int number, const Body& body) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  const pid_t parent = getpid(), pid = fork();
  if (pid < 0) return ErrnoStatus(errno, "fork");
  if (pid > 0) return Process{pid, std::move(read_end)};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() == parent) WriteAll(write_end.get(), AnswerText(body(number)));
  _exit(0);
}

// One that has begun to answer or has ended, of those that have not been awaited.
int AwaitOne(const std::vector<Process>& processes) {
  std::vector<pollfd> answers;
  for (const Process& process : processes) answers.push_back({process.answer.get(), POLLIN, 0});
  while (poll(answers.data(), answers.size(), /*timeout=*/-1) < 0 && errno == EINTR) {
  }
  const auto one = std::find_if(answers.begin(), answers.end(),
                                [](const pollfd& answer) { return answer.revents != 0; });
  VITSCALE_CHECK(one != answers.end()) << "poll: " << std::strerror(errno);
  return static_cast<int>(one - answers.begin());
}

int WaitFor(pid_t pid) {
  int how = 0;
  while (waitpid(pid, &how, 0) < 0 && errno == EINTR) {
  }
  return how;
}

// Those that are left cannot succeed without the one that failed, and might wait for it.
void End(Process& process) {
  if (!process.answer.valid()) return;
  kill(process.pid, SIGKILL);
  (void)WaitFor(process.pid);
  process.answer.reset();
}

absl::StatusOr<json> Await(int number, Process& process) {
  const std::string text = ReadAll(process.answer.get());
  process.answer.reset();
  const int how = WaitFor(process.pid);
  const std::string noun = absl::StrCat("rank ", number);
  json answer = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (answer.is_discarded()) {
    return absl::UnavailableError(
        absl::StrCat(noun, " ended without an answer, ",
                     WIFSIGNALED(how) ? absl::StrCat("signal ", WTERMSIG(how)) : "no signal"));
  }
  if (answer.contains("value")) return answer["value"];
  return Annotate(absl::Status(static_cast<absl::StatusCode>(answer["code"].get<int>()),
                               answer["message"].get<std::string>()),
                  noun);
}

}  // namespace

absl::StatusOr<std::vector<json>> RunInProcesses(int count, const Body& body) {
  std::vector<Process> processes;
  absl::Status failed;
  for (int number = 0; number < count && failed.ok(); ++number) {
    auto process = Start(number, body);
    failed = process.status();
    if (process.ok()) processes.push_back(*std::move(process));
  }
  std::vector<json> answers(processes.size());
  for (size_t left = processes.size(); left > 0 && failed.ok(); --left) {
    const int number = AwaitOne(processes);
    auto answer = Await(number, processes[number]);
    failed = answer.status();
    if (answer.ok()) answers[number] = *std::move(answer);
  }
  if (failed.ok()) return answers;
  for (Process& process : processes) End(process);
  return failed;
}

}  // namespace vitscale
