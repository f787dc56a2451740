#include "worker/collective/rendezvous.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/clock.h"
#include "kernels/base/net.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr uint64_t kMagic = 0x3130767a64726376;  // "vcrdzv01"
constexpr uint32_t kSecretBytesMax = 256;
constexpr uint32_t kBlobBytesMax = 1 << 20;
constexpr size_t kStrangersMax = 1024;
constexpr int kSliceMillis = 20;  // between looks at `cancelled_`

// What a joiner sends first; secret and blob follow.
struct Hello {
  uint64_t magic = kMagic;
  uint64_t job_hash = 0;
  int64_t attempt = 0;
  int64_t generation = 0;
  uint64_t plan_hash = 0;
  int32_t rank = 0;
  int32_t world_size = 0;
  uint32_t secret_bytes = 0;
  uint32_t blob_bytes = 0;
};
static_assert(std::is_trivially_copyable_v<Hello>);

// What rank 0 answers; a text (refusal) or the blobs (each with a u32 length before it) follow.
enum class Verdict : uint32_t { kWelcome = 0, kRefused = 1, kTooEarly = 2 };
struct Answer {
  Verdict verdict = Verdict::kWelcome;
  uint32_t bytes = 0;
};

// Time does not depend on where the first difference is.
bool SecretsEqual(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

// A connection that has not said everything yet, or (rank >= 0) waits for the answer.
struct Guest {
  UniqueFd fd;
  std::string received;
  int rank = -1;
  std::string blob;
};

struct Judgement {
  Verdict verdict = Verdict::kWelcome;
  std::string reason;
};

// Texts never say what the secret is, nor anything else to those who do not know it.
Judgement Judge(const Hello& hello, absl::string_view secret, const RendezvousIdentity& want,
                int world_size) {
  if (!SecretsEqual(secret, want.secret)) return {Verdict::kRefused, "wrong secret"};
  if (hello.job_hash != want.job_hash) return {Verdict::kRefused, "another job"};
  if (hello.attempt != want.attempt || hello.generation != want.generation) {
    const bool early = std::make_pair(hello.attempt, hello.generation) >
                       std::make_pair(want.attempt, want.generation);
    return {early ? Verdict::kTooEarly : Verdict::kRefused,
            absl::StrCat("attempt ", hello.attempt, " generation ", hello.generation,
                         " came, want attempt ", want.attempt, " generation ", want.generation)};
  }
  if (hello.plan_hash != want.plan_hash) {
    return {Verdict::kRefused,
            absl::StrCat("plan ", absl::Hex(hello.plan_hash), " of rank ", hello.rank,
                         " differs from rank 0's ", absl::Hex(want.plan_hash),
                         ": other job, device, precision, bucket size, build or transport")};
  }
  if (hello.world_size != world_size || hello.rank < 1 || hello.rank >= world_size) {
    return {Verdict::kRefused, absl::StrCat("rank ", hello.rank, " of ", hello.world_size,
                                            ", want 1 to ", world_size - 1, " of ", world_size)};
  }
  return {};
}

std::string EncodeAnswer(Verdict verdict, absl::string_view body) {
  const Answer answer{verdict, static_cast<uint32_t>(body.size())};
  std::string bytes(reinterpret_cast<const char*>(&answer), sizeof(answer));
  bytes.append(body.data(), body.size());
  return bytes;
}

std::string EncodeBlobs(const std::vector<std::string>& blobs) {
  std::string body;
  for (const std::string& blob : blobs) {
    const uint32_t size = blob.size();
    body.append(reinterpret_cast<const char*>(&size), sizeof(size));
    body.append(blob);
  }
  return body;
}

absl::StatusOr<std::vector<std::string>> DecodeBlobs(absl::string_view body, int count) {
  std::vector<std::string> blobs;
  for (int i = 0; i < count; ++i) {
    uint32_t size = 0;
    if (body.size() < sizeof(size)) return absl::DataLossError("rendezvous: answer cut short");
    std::memcpy(&size, body.data(), sizeof(size));
    body.remove_prefix(sizeof(size));
    if (body.size() < size) return absl::DataLossError("rendezvous: answer cut short");
    blobs.emplace_back(body.substr(0, size));
    body.remove_prefix(size);
  }
  return blobs;
}

// Reads what is there. False: the peer hung up or failed.
bool ReadSome(Guest& guest) {
  char buffer[16 << 10];
  while (true) {
    const ssize_t n = recv(guest.fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (n > 0) {
      guest.received.append(buffer, n);
      if (guest.received.size() > sizeof(Hello) + kSecretBytesMax + kBlobBytesMax) return false;
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }
}

// The hello once it is whole; nullopt: more is to come. A nonsensical one is an error.
absl::StatusOr<std::optional<Hello>> WholeHello(const std::string& received) {
  Hello hello;
  if (received.size() < sizeof(hello)) return std::nullopt;
  std::memcpy(&hello, received.data(), sizeof(hello));
  if (hello.magic != kMagic || hello.secret_bytes > kSecretBytesMax ||
      hello.blob_bytes > kBlobBytesMax) {
    return absl::DataLossError("not a rendezvous");
  }
  if (received.size() < sizeof(hello) + hello.secret_bytes + hello.blob_bytes) return std::nullopt;
  return hello;
}

// Rank 0's side: takes guests in until all ranks are there.
class Reception {
 public:
  Reception(const RendezvousIdentity& identity, int world_size, RendezvousListener& listener)
      : identity_(identity), world_size_(world_size), listener_(listener) {}

  // Waits for at most one slice and deals with what happened.
  absl::Status Turn() {
    std::vector<pollfd> polls = {{listener_.fd(), POLLIN, 0}};
    for (const Guest& guest : guests_) polls.push_back({guest.fd.get(), POLLIN | POLLRDHUP, 0});
    if (poll(polls.data(), polls.size(), kSliceMillis) < 0 && errno != EINTR) {
      return ErrnoStatus(errno, "rendezvous: poll");
    }
    for (size_t i = guests_.size(); i-- > 0;) {
      if (polls[i + 1].revents != 0 && !Listen(guests_[i])) guests_.erase(guests_.begin() + i);
    }
    if (polls[0].revents != 0) TakeIn();
    return absl::OkStatus();
  }

  std::vector<int> Missing() const {
    std::vector<int> missing;
    for (int rank = 1; rank < world_size_; ++rank) {
      if (std::none_of(guests_.begin(), guests_.end(),
                       [rank](const Guest& guest) { return guest.rank == rank; })) {
        missing.push_back(rank);
      }
    }
    return missing;
  }

  absl::StatusOr<std::vector<std::string>> AnswerAll(std::string own_blob) {
    std::vector<std::string> blobs(world_size_);
    blobs[0] = std::move(own_blob);
    for (Guest& guest : guests_) {
      if (guest.rank >= 0) blobs[guest.rank] = guest.blob;
    }
    const std::string answer = EncodeAnswer(Verdict::kWelcome, EncodeBlobs(blobs));
    for (Guest& guest : guests_) {
      if (guest.rank < 0) continue;
      VITSCALE_RETURN_IF_ERROR(Annotate(WriteAll(guest.fd.get(), answer, absl::Seconds(5)),
                                        absl::StrCat("rendezvous: answer to rank ", guest.rank)));
    }
    return blobs;
  }

 private:
  void TakeIn() {
    while (true) {
      UniqueFd fd(accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd.valid()) return;  // nobody else, or the one who knocked has left
      if (guests_.size() >= kStrangersMax) continue;
      guests_.push_back(Guest{std::move(fd)});
    }
  }

  // False: this guest leaves.
  bool Listen(Guest& guest) {
    if (!ReadSome(guest)) return false;
    if (guest.rank >= 0) return true;
    const auto hello = WholeHello(guest.received);
    if (!hello.ok()) return false;
    if (!hello->has_value()) return true;
    const absl::string_view rest = absl::string_view(guest.received).substr(sizeof(Hello));
    const auto judgement =
        Judge(**hello, rest.substr(0, (*hello)->secret_bytes), identity_, world_size_);
    if (judgement.verdict != Verdict::kWelcome) {
      (void)WriteAll(guest.fd.get(), EncodeAnswer(judgement.verdict, judgement.reason),
                     absl::Milliseconds(100));
      return false;
    }
    DismissEarlier((*hello)->rank);
    guest.rank = (*hello)->rank;
    guest.blob = std::string(rest.substr((*hello)->secret_bytes, (*hello)->blob_bytes));
    return true;
  }

  // A rank that comes twice has lost its first connection.
  void DismissEarlier(int rank) {
    for (Guest& other : guests_) {
      if (other.rank == rank) other.rank = -2;
    }
  }

  const RendezvousIdentity& identity_;
  const int world_size_;
  RendezvousListener& listener_;
  std::vector<Guest> guests_;
};

std::string EncodeHello(const RendezvousIdentity& identity, int rank, int world_size,
                        absl::string_view blob) {
  Hello hello;
  hello.job_hash = identity.job_hash;
  hello.attempt = identity.attempt;
  hello.generation = identity.generation;
  hello.plan_hash = identity.plan_hash;
  hello.rank = rank;
  hello.world_size = world_size;
  hello.secret_bytes = identity.secret.size();
  hello.blob_bytes = blob.size();
  return absl::StrCat(absl::string_view(reinterpret_cast<const char*>(&hello), sizeof(hello)),
                      identity.secret, blob);
}

// Waits until `fd` can be read; CANCELLED, DEADLINE_EXCEEDED.
absl::Status AwaitReadable(int fd, absl::Time deadline, const std::atomic<bool>& cancelled) {
  while (!cancelled) {
    pollfd entry{fd, POLLIN, 0};
    if (poll(&entry, 1, kSliceMillis) > 0) return absl::OkStatus();
    if (RealClock().Monotonic() >= deadline) return absl::DeadlineExceededError("no answer");
  }
  return absl::CancelledError("rendezvous: aborted");
}

struct Reply {
  Verdict verdict;
  std::string body;
};

// One try: connect, hello, answer.
absl::StatusOr<Reply> Ask(const HostPort& address, absl::string_view hello, absl::Time deadline,
                          const std::atomic<bool>& cancelled) {
  VITSCALE_ASSIGN_OR_RETURN(const UniqueFd fd, ConnectTcp(address, absl::Milliseconds(80)));
  VITSCALE_RETURN_IF_ERROR(WriteAll(fd.get(), hello, absl::Milliseconds(500)));
  VITSCALE_RETURN_IF_ERROR(AwaitReadable(fd.get(), deadline, cancelled));
  Answer answer;
  VITSCALE_RETURN_IF_ERROR(ReadAll(fd.get(),
                                   absl::MakeSpan(reinterpret_cast<char*>(&answer), sizeof(answer)),
                                   absl::Seconds(1)));
  if (answer.bytes > (256u << 20)) return absl::DataLossError("rendezvous: answer too long");
  Reply reply{answer.verdict, std::string(answer.bytes, '\0')};
  if (answer.bytes > 0) {
    VITSCALE_RETURN_IF_ERROR(
        ReadAll(fd.get(), absl::MakeSpan(reply.body.data(), reply.body.size()), absl::Seconds(1)));
  }
  return reply;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RendezvousListener>> RendezvousListener::Open(
    absl::string_view data_address, int port) {
  const HostPort wanted{std::string(data_address), port};
  auto fd = ListenTcp(wanted);
  if (!fd.ok()) {
    return Annotate(fd.status(), absl::StrCat("data plane listener on ", wanted.ToString()));
  }
  VITSCALE_ASSIGN_OR_RETURN(const int local_port, LocalPort(fd->get()));
  const int flags = fcntl(fd->get(), F_GETFL);
  if (flags < 0 || fcntl(fd->get(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return ErrnoStatus(errno, "data plane listener: O_NONBLOCK");
  }
  return std::unique_ptr<RendezvousListener>(
      new RendezvousListener(*std::move(fd), HostPort{wanted.host, local_port}.ToString()));
}

Rendezvous::Rendezvous(RendezvousIdentity identity, int rank, int world_size)
    : identity_(std::move(identity)), rank_(rank), world_size_(world_size) {
  VITSCALE_CHECK(identity_.secret.size() <= kSecretBytesMax) << identity_.secret.size() << " bytes";
}

absl::StatusOr<std::vector<std::string>> Rendezvous::Host(RendezvousListener& listener,
                                                          std::string own_blob,
                                                          absl::Duration timeout) {
  const absl::Time deadline = RealClock().Monotonic() + timeout;
  Reception reception(identity_, world_size_, listener);
  while (true) {
    std::vector<int> missing = reception.Missing();
    if (missing.empty()) return reception.AnswerAll(std::move(own_blob));
    if (cancelled_) return absl::CancelledError("rendezvous: aborted");
    if (RealClock().Monotonic() >= deadline) {
      absl::MutexLock lock(&mutex_);
      missing_ = std::move(missing);
      return absl::UnavailableError(absl::StrCat("rendezvous: rank ", absl::StrJoin(missing_, ", "),
                                                 " did not come within ",
                                                 absl::FormatDuration(timeout)));
    }
    VITSCALE_RETURN_IF_ERROR(reception.Turn());
  }
}

absl::StatusOr<std::vector<std::string>> Rendezvous::Join(absl::string_view rank0_address,
                                                          std::string own_blob,
                                                          absl::Duration timeout) {
  VITSCALE_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(rank0_address));
  const absl::Time deadline = RealClock().Monotonic() + timeout;
  const std::string hello = EncodeHello(identity_, rank_, world_size_, own_blob);
  std::string refusal, failure;
  while (!cancelled_) {
    const auto reply = Ask(address, hello, deadline, cancelled_);
    if (reply.ok() && reply->verdict == Verdict::kWelcome) {
      return DecodeBlobs(reply->body, world_size_);
    }
    if (reply.ok() && reply->verdict == Verdict::kRefused) {
      return absl::FailedPreconditionError(absl::StrCat(
          "rendezvous: rank 0 at ", rank0_address, " refused rank ", rank_, ": ", reply->body));
    }
    (reply.ok() ? refusal : failure) =
        reply.ok() ? reply->body : std::string(reply.status().message());
    if (RealClock().Monotonic() >= deadline) {
      absl::MutexLock lock(&mutex_);
      missing_ = {0};
      return absl::UnavailableError(absl::StrCat("rendezvous: rank 0 at ", rank0_address,
                                                 " not met within ", absl::FormatDuration(timeout),
                                                 ": ", refusal.empty() ? failure : refusal));
    }
    poll(nullptr, 0, kSliceMillis);
  }
  return absl::CancelledError("rendezvous: aborted");
}

absl::StatusOr<std::vector<std::string>> Rendezvous::Meet(absl::string_view rank0_address,
                                                          RendezvousListener* listener,
                                                          std::string own_blob,
                                                          absl::Duration timeout) {
  if (rank_ != 0) return Join(rank0_address, std::move(own_blob), timeout);
  VITSCALE_CHECK(listener != nullptr) << "rank 0 has a listener";
  return Host(*listener, std::move(own_blob), timeout);
}

std::vector<int> Rendezvous::missing() const {
  absl::MutexLock lock(&mutex_);
  return missing_;
}

}  // namespace vitscale
