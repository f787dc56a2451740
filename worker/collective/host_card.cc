#include "worker/collective/host_card.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

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

absl::Status CheckOneHost(const std::vector<HostCard>& cards) {
  if (cards.size() > kSharedRanksMax) {
    return NotOneHost(absl::StrCat(cards.size(), " ranks, at most ", kSharedRanksMax));
  }
  if (!cards.empty() && cards[0].nonce == 0) return NotOneHost("rank 0 has no memory for it");
  for (size_t rank = 0; rank < cards.size(); ++rank) {
    const HostCard& card = cards[rank];
    const auto differs = [rank](absl::string_view what) {
      return NotOneHost(absl::StrCat("rank ", rank, " and rank 0 differ in their ", what));
    };
    if (card.boot_id == 0 || card.boot_id != cards[0].boot_id) return differs("boot id");
    if (card.network != cards[0].network) return differs("network namespace");
    if (card.user != cards[0].user) return differs("user");
  }
  return absl::OkStatus();
}

}  // namespace vitscale
