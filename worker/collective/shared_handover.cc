#include "worker/collective/shared_handover.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr int kSliceMillis = 20;  // between looks at `cancelled`
constexpr size_t kStrangersMax = 256;

// One packet, alike in both directions.
enum class Word : uint32_t { kHello = 1, kMemory = 2, kMapped = 3, kGo = 4, kNo = 5 };
struct Packet {
  uint64_t nonce = 0;
  Word word = Word::kNo;
  int32_t rank = 0;  // of the sender
};

struct Received {
  Packet packet;
  std::vector<UniqueFd> descriptors;
};

std::pair<sockaddr_un, socklen_t> AbstractAddress(uint64_t socket_name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = absl::StrCat("vitscale-", absl::Hex(socket_name, absl::kZeroPad16));
  std::memcpy(address.sun_path + 1, name.data(), name.size());  // the leading zero: abstract
  return {address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size())};
}

absl::StatusOr<UniqueFd> NewSocket() {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "handover: socket");
  return fd;
}

absl::StatusOr<UniqueFd> OwnPidfd() {
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!fd.valid()) return NotOneHost(absl::StrCat("pidfd_open: ", strerror(errno)));
  return fd;
}

// Sockets are empty when anything is sent, so it fits or the peer is gone.
absl::Status Send(int socket, const Packet& packet, const std::vector<int>& descriptors = {}) {
  iovec data{const_cast<Packet*>(&packet), sizeof(packet)};
  std::vector<char> control(CMSG_SPACE(sizeof(int) * descriptors.size()));
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
    std::memcpy(CMSG_DATA(head), descriptors.data(), sizeof(int) * descriptors.size());
  }
  if (sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(packet)) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("handover: send: ", strerror(errno)));
}

// Takes every descriptor that came, wanted or not.
std::vector<UniqueFd> TakeDescriptors(msghdr& message) {
  std::vector<UniqueFd> descriptors;
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr;
       head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(head) + i * sizeof(int), sizeof(fd));
      descriptors.emplace_back(fd);
    }
  }
  return descriptors;
}

// What lies there: UNAVAILABLE if the peer hung up, DATA_LOSS for anything but a packet of ours.
absl::StatusOr<Received> ReceiveNow(int socket, uint64_t nonce) {
  Received received;
  iovec data{&received.packet, sizeof(received.packet)};
  std::vector<char> control(CMSG_SPACE(sizeof(int) * (kSharedRanksMax + 1)));
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n <= 0) return absl::UnavailableError("handover: closed");
  received.descriptors = TakeDescriptors(message);
  if (n != sizeof(Packet) || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ||
      received.packet.nonce != nonce) {
    return absl::DataLossError("handover: not a packet of this generation");
  }
  return received;
}

// True: something can be read. False: a slice has passed.
absl::StatusOr<bool> Wait(std::vector<pollfd>& polls, const HandoverTerms& terms) {
  if (terms.cancelled()) return absl::CancelledError("handover: aborted");
  if (poll(polls.data(), polls.size(), kSliceMillis) > 0) return true;
  if (RealClock().Monotonic() >= terms.deadline) {
    return absl::DeadlineExceededError("handover: no answer");
  }
  return false;
}

absl::StatusOr<Received> AwaitPacket(int socket, const HandoverTerms& terms) {
  while (true) {
    std::vector<pollfd> polls = {{socket, POLLIN, 0}};
    VITSCALE_ASSIGN_OR_RETURN(const bool ready, Wait(polls, terms));
    if (ready) return ReceiveNow(socket, terms.host.nonce);
  }
}

bool IsOwnUser(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 &&
         credentials.uid == geteuid();
}

// Rank 0's side.
class Counter {
 public:
  Counter(const HandoverTerms& terms, int listener)
      : terms_(terms), listener_(listener), guests_(terms.world_size), pidfds_(terms.world_size) {}

  // Until every rank has said hello.
  absl::Status TakeIn() {
    while (Missing() > 0) {
      std::vector<pollfd> polls = {{listener_, POLLIN, 0}};
      for (const UniqueFd& stranger : strangers_) polls.push_back({stranger.get(), POLLIN, 0});
      VITSCALE_ASSIGN_OR_RETURN(const bool ready, Wait(polls, terms_));
      if (!ready) continue;
      for (size_t i = strangers_.size(); i-- > 0;) {
        if (polls[i + 1].revents == 0) continue;
        Listen(std::move(strangers_[i]));
        strangers_.erase(strangers_.begin() + i);
      }
      if (polls[0].revents != 0) Accept();
    }
    return absl::OkStatus();
  }

  absl::Status GiveMemory(const UniqueFd& memory, UniqueFd own_pidfd) {
    pidfds_[0] = std::move(own_pidfd);
    std::vector<int> descriptors = {memory.get()};
    for (const UniqueFd& pidfd : pidfds_) descriptors.push_back(pidfd.get());
    return Tell(Word::kMemory, descriptors);
  }

  absl::Status AwaitMapped() {
    for (int rank = 1; rank < terms_.world_size; ++rank) {
      auto answer = AwaitPacket(guests_[rank].get(), terms_);
      VITSCALE_RETURN_IF_ERROR(Annotate(answer.status(), absl::StrCat("handover: rank ", rank)));
      if (answer->packet.word != Word::kMapped) {
        return NotOneHost(absl::StrCat("rank ", rank, " could not map it"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Tell(Word word, const std::vector<int>& descriptors = {}) {
    absl::Status first;
    for (int rank = 1; rank < terms_.world_size; ++rank) {
      if (!guests_[rank].valid()) continue;
      first.Update(Send(guests_[rank].get(), {terms_.host.nonce, word, 0}, descriptors));
    }
    return first;
  }

  int Missing() const {
    return std::count_if(guests_.begin() + 1, guests_.end(),
                         [](const UniqueFd& guest) { return !guest.valid(); });
  }
  std::vector<UniqueFd> TakePidfds() { return std::move(pidfds_); }

 private:
  void Accept() {
    UniqueFd fd(accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.valid() && IsOwnUser(fd.get()) && strangers_.size() < kStrangersMax) {
      strangers_.push_back(std::move(fd));
    }
  }

  void Listen(UniqueFd guest) {
    auto hello = ReceiveNow(guest.get(), terms_.host.nonce);
    if (!hello.ok() || hello->packet.word != Word::kHello || hello->descriptors.size() != 1) return;
    const int rank = hello->packet.rank;
    if (rank < 1 || rank >= terms_.world_size || guests_[rank].valid()) return;
    guests_[rank] = std::move(guest);
    pidfds_[rank] = std::move(hello->descriptors[0]);
  }

  const HandoverTerms& terms_;
  const int listener_;
  std::vector<UniqueFd> strangers_;
  std::vector<UniqueFd> guests_;  // by rank
  std::vector<UniqueFd> pidfds_;  // by rank
};

absl::Status HandOutTo(Counter& counter, MakeMemory make, MapMemory map) {
  VITSCALE_ASSIGN_OR_RETURN(UniqueFd own_pidfd, OwnPidfd());
  absl::Status came = counter.TakeIn();
  if (absl::IsDeadlineExceeded(came)) {
    return NotOneHost(absl::StrCat(counter.Missing(), " ranks did not fetch the memory"));
  }
  VITSCALE_RETURN_IF_ERROR(came);
  const absl::StatusOr<UniqueFd> memory = make();
  const absl::Status mapped = memory.ok() ? map(memory->get()) : memory.status();
  if (!mapped.ok()) return NotOneHost(mapped.message());
  VITSCALE_RETURN_IF_ERROR(counter.GiveMemory(*memory, std::move(own_pidfd)));
  return counter.AwaitMapped();
}

}  // namespace

absl::StatusOr<UniqueFd> ListenForHandover(const HostCard& card) {
  VITSCALE_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket());
  const auto [address, size] = AbstractAddress(card.socket);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      listen(fd.get(), kSharedRanksMax) != 0) {
    return ErrnoStatus(errno, "handover: listen");
  }
  return fd;
}

absl::StatusOr<std::vector<UniqueFd>> HandOut(const HandoverTerms& terms, int listener,
                                              MakeMemory make, MapMemory map) {
  Counter counter(terms, listener);
  const absl::Status done = HandOutTo(counter, make, map);
  if (IsNotOneHost(done)) (void)counter.Tell(Word::kNo);  // after other errors they see it close
  VITSCALE_RETURN_IF_ERROR(done);
  VITSCALE_RETURN_IF_ERROR(counter.Tell(Word::kGo));
  return counter.TakePidfds();
}

absl::StatusOr<std::vector<UniqueFd>> Receive(const HandoverTerms& terms, MapMemory map) {
  VITSCALE_ASSIGN_OR_RETURN(const UniqueFd fd, NewSocket());
  VITSCALE_ASSIGN_OR_RETURN(const UniqueFd own_pidfd, OwnPidfd());
  const auto [address, size] = AbstractAddress(terms.host.socket);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    return NotOneHost(
        absl::StrCat("rank ", terms.rank, ": connect to rank 0's socket: ", strerror(errno)));
  }
  const uint64_t nonce = terms.host.nonce;
  VITSCALE_RETURN_IF_ERROR(Send(fd.get(), {nonce, Word::kHello, terms.rank}, {own_pidfd.get()}));
  VITSCALE_ASSIGN_OR_RETURN(Received memory, AwaitPacket(fd.get(), terms));
  if (memory.packet.word == Word::kNo) return NotOneHost("another rank could not");
  if (static_cast<int>(memory.descriptors.size()) != terms.world_size + 1) {
    return absl::UnavailableError("handover: rank 0 sent something else than memory");
  }
  const absl::Status mapped = map(memory.descriptors[0].get());
  VITSCALE_RETURN_IF_ERROR(
      Send(fd.get(), {nonce, mapped.ok() ? Word::kMapped : Word::kNo, terms.rank}));
  if (!mapped.ok()) return NotOneHost(mapped.message());
  VITSCALE_ASSIGN_OR_RETURN(const Received last, AwaitPacket(fd.get(), terms));
  if (last.packet.word != Word::kGo) return NotOneHost("another rank could not");
  memory.descriptors.erase(memory.descriptors.begin());
  return std::move(memory.descriptors);
}

}  // namespace vitscale
