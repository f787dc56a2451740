#include "worker/collective/host_card.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/unique_fd.h"

namespace vitscale {
namespace {

constexpr uint64_t kCardMagic = 0x3130647261637376;  // "vscard01"
constexpr char kNotOneHostUrl[] = "vitscale/not-one-host";

struct CardBytes {
  uint64_t magic = kCardMagic;
  HostCard card;
};
static_assert(std::is_trivially_copyable_v<CardBytes>);

std::string ReadSmallFile(const char* path) {
  char text[128];
  const UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  const ssize_t n = fd.valid() ? read(fd.get(), text, sizeof(text)) : -1;
  return n > 0 ? std::string(text, n) : "";
}

// What keeps two ranks from sharing memory; null: nothing.
const char* DifferenceOf(const HostCard& a, const HostCard& b) {
  if (a.boot_id == 0 || a.boot_id != b.boot_id) return "boot id";
  if (a.network != b.network) return "network namespace";
  if (a.user != b.user) return "user";
  return nullptr;
}

}  // namespace

std::string HostCard::Encode() const {
  const CardBytes bytes{kCardMagic, *this};
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
}

absl::StatusOr<HostCard> HostCard::Decode(absl::string_view blob) {
  CardBytes bytes;
  if (blob.size() == sizeof(bytes)) std::memcpy(&bytes, blob.data(), sizeof(bytes));
  if (blob.size() != sizeof(bytes) || bytes.magic != kCardMagic) {
    return absl::UnavailableError("rendezvous: a rank brought no host card");
  }
  return bytes.card;
}

HostCard OwnHostCard(uint64_t pretended_host) {
  HostCard card;
  const std::string boot_id = ReadSmallFile("/proc/sys/kernel/random/boot_id");
  if (!boot_id.empty()) card.boot_id = CombineHash(Hash64(boot_id), pretended_host);
  struct stat about {};
  if (stat("/proc/self/ns/net", &about) == 0) card.network = about.st_ino;
  card.user = geteuid();
  return card;
}

absl::Status NotOneHost(absl::string_view why) {
  absl::Status status =
      absl::FailedPreconditionError(absl::StrCat("the ranks cannot share memory: ", why));
  status.SetPayload(kNotOneHostUrl, absl::Cord("1"));
  return status;
}

bool IsNotOneHost(const absl::Status& status) {
  return status.GetPayload(kNotOneHostUrl).has_value();
}

absl::StatusOr<std::vector<std::vector<int>>> RanksByHost(const std::vector<HostCard>& cards) {
  std::vector<std::vector<int>> hosts;
  for (int rank = 0; rank < static_cast<int>(cards.size()); ++rank) {
    const auto own = std::find_if(hosts.begin(), hosts.end(), [&](const std::vector<int>& host) {
      return DifferenceOf(cards[host.front()], cards[rank]) == nullptr;
    });
    if (own == hosts.end()) {
      hosts.push_back({rank});
    } else if (own->size() < kSharedRanksMax) {
      own->push_back(rank);
    } else {
      return NotOneHost(
          absl::StrCat("more than ", kSharedRanksMax, " are on the host of rank ", own->front()));
    }
  }
  if (hosts.size() < cards.size()) return hosts;
  if (hosts.size() < 2) return NotOneHost("there is one");
  return NotOneHost(absl::StrCat("each is alone on its host; ranks 0 and 1 differ in their ",
                                 DifferenceOf(cards[0], cards[1])));
}

}  // namespace vitscale
