// Where ranks run, and whether they can share memory.

#ifndef WORKER_COLLECTIVE_HOST_CARD_H_
#define WORKER_COLLECTIVE_HOST_CARD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale {

inline constexpr int kSharedRanksMax = 64;

// Where a rank runs: its blob in the rendezvous.
struct HostCard {
  uint64_t boot_id = 0;  // hash of the kernel's; 0: not known, equal to no other
  uint64_t network = 0;  // the network namespace, to which abstract addresses belong
  uint64_t user = 0;
  uint64_t nonce = 0;   // random: of the memory that this rank makes if it leads its host
  uint64_t socket = 0;  // random: names its abstract address

  std::string Encode() const;
  static absl::StatusOr<HostCard> Decode(absl::string_view blob);
};

// The card of this process; nonce and socket stay 0. `pretended_host`: see
// SharedMemoryOptions::host.
HostCard OwnHostCard(uint64_t pretended_host = 0);

// A status that says so, FAILED_PRECONDITION: the ranks cannot share memory, but may well reach
// each other over TCP.
absl::Status NotOneHost(absl::string_view why);
bool IsNotOneHost(const absl::Status& status);

// The ranks of each host, by their cards, in order; hosts in the order of their first ranks, which
// lead them. Ranks of one host can reach each other's sockets. NotOneHost: each is alone, or there
// are more than kSharedRanksMax on a host.
absl::StatusOr<std::vector<std::vector<int>>> RanksByHost(const std::vector<HostCard>& cards);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_HOST_CARD_H_
