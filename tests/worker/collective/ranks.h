// Runs the ranks of a collective as threads of the test, or as processes forked from it.

#ifndef TESTS_WORKER_COLLECTIVE_RANKS_H_
#define TESTS_WORKER_COLLECTIVE_RANKS_H_

#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/collective/collective.h"
#include "worker/collective/gloo_collective.h"
#include "worker/collective/rendezvous.h"
#include "worker/collective/shared_memory_collective.h"
#include "worker/collective/single_collective.h"

namespace vitscale {

// kTwoHosts: even ranks pretend to be on one host, odd ones on another; two ranks alone are on one.
enum class Wiring { kGloo, kSharedMemory, kTwoHosts };

inline std::string NameOf(Wiring wiring) {
  return wiring == Wiring::kGloo       ? "Gloo"
         : wiring == Wiring::kTwoHosts ? "TwoHosts"
                                       : "SharedMemory";
}

// One generation of `size` ranks on loopback. Rank 0's listener is opened at once, so ranks may be
// forked.
class Gang {
 public:
  explicit Gang(int size, Wiring wiring = Wiring::kGloo, int64_t generation = 1)
      : wiring_(wiring), size_(size) {
    signal(SIGPIPE, SIG_IGN);
    identity_.secret = "a secret of this generation";
    identity_.job_hash = 42;
    identity_.attempt = 1;
    identity_.generation = generation;
    identity_.plan_hash = 7;
    listener_ = *RendezvousListener::Open("127.0.0.1");
  }

  std::unique_ptr<Collective> Make(int rank) const { return Make(rank, identity_); }
  std::unique_ptr<Collective> Make(int rank, const RendezvousIdentity& identity) const {
    const MeetingOptions meeting = {identity, rank, size_, listener_->address(), listener_.get()};
    if (wiring_ == Wiring::kGloo) return MakeGlooCollective({meeting, "127.0.0.1"});
    const bool hosts = wiring_ == Wiring::kTwoHosts && size_ > 2;
    return MakeSharedMemoryCollective({meeting, chunk_bytes_, hosts ? 1u + rank % 2 : 0u});
  }

  // Calls `body` for every rank in a thread of its own, connected.
  void RunThreads(const std::function<void(Collective&)>& body) const {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([this, rank, &body] {
        const auto collective = Make(rank);
        if (collective->Connect(absl::Seconds(20)).ok()) body(*collective);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  // Forks one process per rank; `body` returns what the process writes to the test. The test must
  // have no other thread. Await collects.
  struct Process {
    pid_t pid = -1;
    int output = -1;
  };
  std::vector<Process> Fork(const std::function<std::string(Collective&)>& body) const {
    std::vector<Process> processes;
    for (int rank = 0; rank < size_; ++rank) {
      int ends[2];
      if (pipe(ends) != 0) return processes;
      const pid_t pid = fork();
      if (pid == 0) {
        close(ends[0]);
        RunChild(rank, ends[1], body);
      }
      close(ends[1]);
      processes.push_back({pid, ends[0]});
    }
    return processes;
  }
  // Reads until `bytes` bytes or the end of the output.
  static std::string Read(Process& process, size_t bytes) {
    std::string text(bytes, '\0');
    size_t have = 0;
    while (have < bytes) {
      const ssize_t n = read(process.output, text.data() + have, bytes - have);
      if (n <= 0) break;
      have += n;
    }
    text.resize(have);
    return text;
  }
  static std::string Await(Process& process) {
    const std::string text = Read(process, 1 << 20);
    close(process.output);
    waitpid(process.pid, nullptr, 0);
    return text;
  }

  RendezvousIdentity identity_;
  std::unique_ptr<RendezvousListener> listener_;
  int64_t chunk_bytes_ = 16 << 10;  // of shared memory: small, so that most buckets have several

 private:
  [[noreturn]] void RunChild(int rank, int output,
                             const std::function<std::string(Collective&)>& body) const {
    const auto collective = Make(rank);
    const absl::Status status = collective->Connect(absl::Seconds(20));
    const std::string text = status.ok() ? body(*collective) : status.ToString();
    const ssize_t written = write(output, text.data(), text.size());
    _exit(written < 0 ? 1 : 0);
  }

  const Wiring wiring_;
  const int size_;
};

// `body` on every rank of so many, threads of this process; one alone has no gang to meet.
inline void RunOnRanks(int ranks, const std::function<void(Collective&)>& body) {
  if (ranks == 1) {
    body(*MakeSingleCollective());
  } else {
    Gang(ranks).RunThreads(body);
  }
}

}  // namespace vitscale

#endif  // TESTS_WORKER_COLLECTIVE_RANKS_H_
