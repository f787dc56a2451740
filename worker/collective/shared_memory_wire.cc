#include "worker/collective/shared_memory_wire.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/clock.h"
#include "kernels/base/random.h"
#include "kernels/base/status.h"
#include "worker/collective/gloo_mesh.h"
#include "worker/collective/shared_group.h"
#include "worker/collective/shared_handover.h"

namespace vitscale {
namespace {

// All ranks are there already. The others wait longer than the leader, who tells them how it ended.
constexpr absl::Duration kHandoverTime = absl::Seconds(2);
constexpr absl::Duration kAnswerTime = absl::Seconds(1);
constexpr absl::Duration kSecondMeeting = absl::Seconds(5);  // at least
constexpr char kShares[] = "shares ";  // before a leader's addresses, in the second rendezvous
constexpr char kSharesNot[] = "shares not";

std::string InOrder() { return "shared_memory_in_order"; }

class SharedMemoryWire : public Wire {
 public:
  explicit SharedMemoryWire(SharedMemoryOptions options)
      : options_(std::move(options)),
        rendezvous_(options_.identity, options_.rank, options_.world_size) {}

  int rank() const override { return options_.rank; }
  int world_size() const override { return options_.world_size; }
  std::string algorithm() const override;
  absl::Status Connect(absl::Duration timeout) override;

  absl::Status AllReduceSum(absl::Span<float> values, uint32_t tag) override;
  absl::Status AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag) override;
  absl::Status Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) override;
  absl::Status Barrier(uint32_t tag) override;

  void Shutdown() override {
    rendezvous_.Cancel();
    absl::MutexLock lock(&mutex_);
    down_ = true;
    if (group_ != nullptr) group_->peers().Leave();
    if (mesh_ != nullptr) mesh_->Shutdown();
  }
  std::vector<int> ClosedPeers() const override;
  std::vector<int> Suspects(bool timed_out) const override;

 private:
  using Blobs = std::vector<std::string>;
  absl::StatusOr<Blobs> Meet(std::string own, absl::Duration timeout) {
    return rendezvous_.Meet(options_.rank0_address, options_.listener, std::move(own), timeout);
  }
  absl::Status FindHosts(const std::vector<HostCard>& cards);
  absl::Status Share(int listener, const HostCard& leader);
  absl::Status JoinHosts(const absl::Status& shared, absl::Duration timeout);
  bool IsDown() const {
    absl::MutexLock lock(&mutex_);
    return down_;
  }

  // ---- after FindHosts ----
  const std::vector<int>& host() const { return hosts_[own_host_]; }  // ranks of the own one
  int LeaderOf(int host) const { return hosts_[host].front(); }
  bool leads() const { return host().front() == rank(); }
  bool one_host() const { return hosts_.size() == 1; }
  // Parts of an operation; OK where there is nothing to do.
  absl::Status OnHost(absl::FunctionRef<absl::Status(SharedGroup&)> part) {
    return group_ != nullptr ? part(*group_) : absl::OkStatus();
  }
  absl::Status BetweenHosts(absl::FunctionRef<absl::Status(GlooMesh&)> part) {
    return mesh_ != nullptr ? part(*mesh_) : absl::OkStatus();
  }
  absl::Status FromLeader(absl::Span<std::byte> bytes, uint32_t tag) {
    return OnHost([&](SharedGroup& group) { return group.Broadcast(0, bytes, tag); });
  }

  const SharedMemoryOptions options_;
  class Rendezvous rendezvous_;

  mutable absl::Mutex mutex_;
  bool down_ ABSL_GUARDED_BY(mutex_) = false;
  // Set under the lock, by the operations' thread, once; read by it without.
  std::vector<std::vector<int>> hosts_;  // see RanksByHost
  int own_host_ = 0;
  std::unique_ptr<SharedGroup> group_;  // of the host; none where this rank is alone
  std::unique_ptr<GlooMesh> mesh_;      // of a leader, where there are several hosts
};

std::string SharedMemoryWire::algorithm() const {
  absl::MutexLock lock(&mutex_);
  if (hosts_.size() <= 1) return InOrder();
  std::vector<int> host_of(world_size());
  for (size_t host = 0; host < hosts_.size(); ++host) {
    for (int rank : hosts_[host]) host_of[rank] = static_cast<int>(host);
  }
  return absl::StrCat(InOrder(), " on hosts ", absl::StrJoin(host_of, ","), ", gloo_ring");
}

// ---- meeting
// -------------------------------------------------------------------------------------

absl::Status SharedMemoryWire::Connect(absl::Duration timeout) {
  const absl::Time deadline = RealClock().Monotonic() + timeout;
  HostCard own = OwnHostCard(options_.host);
  own.socket = SystemRandom().Next();
  own.nonce = SystemRandom().Next() | 1;
  VITSCALE_ASSIGN_OR_RETURN(const UniqueFd listener, ListenForHandover(own));
  VITSCALE_ASSIGN_OR_RETURN(const Blobs blobs, Meet(own.Encode(), timeout));
  std::vector<HostCard> cards;
  for (const std::string& blob : blobs) {
    VITSCALE_ASSIGN_OR_RETURN(cards.emplace_back(), HostCard::Decode(blob));
  }
  VITSCALE_RETURN_IF_ERROR(FindHosts(cards));
  absl::Status shared;
  if (host().size() > 1) shared = Share(listener.get(), cards[host().front()]);
  if (one_host() || (!shared.ok() && !IsNotOneHost(shared))) return shared;
  return JoinHosts(shared, std::max(deadline - RealClock().Monotonic(), kSecondMeeting));
}

absl::Status SharedMemoryWire::FindHosts(const std::vector<HostCard>& cards) {
  VITSCALE_ASSIGN_OR_RETURN(std::vector<std::vector<int>> hosts, RanksByHost(cards));
  absl::MutexLock lock(&mutex_);
  hosts_ = std::move(hosts);
  for (size_t host = 0; host < hosts_.size(); ++host) {
    if (absl::c_linear_search(hosts_[host], rank())) own_host_ = static_cast<int>(host);
  }
  return absl::OkStatus();
}

absl::Status SharedMemoryWire::Share(int listener, const HostCard& leader) {
  const SharedShape shape = {leader.nonce, static_cast<int>(host().size()), options_.chunk_bytes};
  const absl::Time deadline =
      RealClock().Monotonic() + kHandoverTime + (leads() ? absl::ZeroDuration() : kAnswerTime);
  const int place = static_cast<int>(absl::c_find(host(), rank()) - host().begin());
  const HandoverTerms terms{place, shape.world_size, leader, deadline, [this] { return IsDown(); }};
  std::unique_ptr<SharedRegion> region;
  const auto make = [&] { return SharedRegion::CreateMemory(shape); };
  const auto map = [&](int memory) {
    VITSCALE_ASSIGN_OR_RETURN(region, SharedRegion::Map(memory, shape));
    return absl::OkStatus();
  };
  auto pidfds = leads() ? HandOut(terms, listener, make, map) : Receive(terms, map);
  if (absl::IsDeadlineExceeded(pidfds.status())) {
    return absl::UnavailableError(pidfds.status().message());
  }
  VITSCALE_RETURN_IF_ERROR(pidfds.status());
  auto peers = std::make_unique<SharedPeers>(std::move(region), *std::move(pidfds), place);
  absl::MutexLock lock(&mutex_);
  group_ = std::make_unique<SharedGroup>(std::move(peers), place, shape.world_size);
  if (down_) group_->peers().Leave();
  return absl::OkStatus();
}

// Everybody learns whether every host could share; then the leaders connect.
absl::Status SharedMemoryWire::JoinHosts(const absl::Status& shared, absl::Duration timeout) {
  std::string own = shared.ok() ? kShares : kSharesNot;
  if (leads()) {
    VITSCALE_ASSIGN_OR_RETURN(auto mesh,
                              GlooMesh::Create(own_host_, static_cast<int>(hosts_.size()),
                                               options_.data_address, timeout));
    if (shared.ok()) own += mesh->Addresses();
    absl::MutexLock lock(&mutex_);
    mesh_ = std::move(mesh);
  }
  VITSCALE_ASSIGN_OR_RETURN(const Blobs blobs, Meet(std::move(own), timeout));
  VITSCALE_RETURN_IF_ERROR(shared);
  for (size_t rank = 0; rank < blobs.size(); ++rank) {
    if (absl::StartsWith(blobs[rank], kShares) && blobs[rank] != kSharesNot) continue;
    return NotOneHost(absl::StrCat("rank ", rank, " could not share with those of its host"));
  }
  if (!leads()) return absl::OkStatus();
  std::vector<std::string> addresses;
  for (const std::vector<int>& ranks : hosts_)
    addresses.emplace_back(absl::StripPrefix(blobs[ranks.front()], kShares));
  VITSCALE_RETURN_IF_ERROR(mesh_->ConnectAll(addresses));
  absl::MutexLock lock(&mutex_);
  if (down_) mesh_->Shutdown();  // it came before the sockets were known
  return absl::OkStatus();
}

// ---- operations
// ----------------------------------------------------------------------------------

absl::Status SharedMemoryWire::AllReduceSum(absl::Span<float> values, uint32_t tag) {
  VITSCALE_RETURN_IF_ERROR(
      OnHost([&](SharedGroup& group) { return group.AllReduceSum(values, tag); }));
  if (one_host()) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(
      BetweenHosts([&](GlooMesh& mesh) { return mesh.AllReduceSum(values, tag); }));
  return FromLeader({reinterpret_cast<std::byte*>(values.data()), values.size() * sizeof(float)},
                    tag);
}

// Hosts have different numbers of ranks: between them travels as much as the largest gives.
absl::Status SharedMemoryWire::AllGather(absl::string_view own, absl::Span<char> all,
                                         uint32_t tag) {
  if (one_host()) return group_->AllGather(own, all, tag);
  size_t most = 0;
  for (const std::vector<int>& ranks : hosts_) most = std::max(most, ranks.size());
  std::string of_host(own), of_all(hosts_.size() * most * own.size(), '\0');
  of_host.resize(most * own.size());
  VITSCALE_RETURN_IF_ERROR(OnHost([&](SharedGroup& group) {
    return group.AllGather(own, absl::MakeSpan(of_host.data(), host().size() * own.size()), tag);
  }));
  VITSCALE_RETURN_IF_ERROR(BetweenHosts([&](GlooMesh& mesh) {
    return mesh.AllGather(of_host, absl::MakeSpan(of_all.data(), of_all.size()), tag);
  }));
  for (size_t host = 0; leads() && host < hosts_.size(); ++host) {
    for (size_t place = 0; place < hosts_[host].size(); ++place) {
      std::memcpy(all.data() + hosts_[host][place] * own.size(),
                  of_all.data() + (host * most + place) * own.size(), own.size());
    }
  }
  return FromLeader({reinterpret_cast<std::byte*>(all.data()), all.size()}, tag);
}

absl::Status SharedMemoryWire::Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) {
  if (root < 0 || root >= world_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("root is rank ", root, ", want 0 to ", world_size() - 1));
  }
  int root_host = 0, place = 0;
  for (size_t host = 0; host < hosts_.size(); ++host) {
    const auto found = absl::c_find(hosts_[host], root);
    if (found == hosts_[host].end()) continue;
    root_host = static_cast<int>(host);
    place = static_cast<int>(found - hosts_[host].begin());
  }
  const auto on_host = [&](SharedGroup& group) { return group.Broadcast(place, bytes, tag); };
  if (root_host == own_host_) VITSCALE_RETURN_IF_ERROR(OnHost(on_host));
  VITSCALE_RETURN_IF_ERROR(
      BetweenHosts([&](GlooMesh& mesh) { return mesh.Broadcast(root_host, bytes, tag); }));
  return root_host == own_host_ ? absl::OkStatus() : FromLeader(bytes, tag);
}

absl::Status SharedMemoryWire::Barrier(uint32_t tag) {
  const auto on_host = [&](SharedGroup& group) { return group.Barrier(tag); };
  VITSCALE_RETURN_IF_ERROR(OnHost(on_host));
  if (one_host()) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(BetweenHosts([&](GlooMesh& mesh) { return mesh.Barrier(tag); }));
  return OnHost(on_host);
}

// ---- losses
// --------------------------------------------------------------------------------------

std::vector<int> SharedMemoryWire::ClosedPeers() const {
  absl::MutexLock lock(&mutex_);
  std::vector<int> closed;
  if (group_ != nullptr) {
    for (int place : group_->peers().Gone()) closed.push_back(host()[place]);
  }
  if (mesh_ != nullptr) {
    for (int host : mesh_->ClosedPeers()) closed.push_back(LeaderOf(host));
  }
  return closed;
}

// Those of the own host first: who is lost on another shows here as the loss of its leader. After a
// silence whoever is waited for on the host, else the leader on whom a ring waits.
std::vector<int> SharedMemoryWire::Suspects(bool timed_out) const {
  std::vector<int> suspects = rendezvous_.missing();
  if (!suspects.empty()) return suspects;
  absl::MutexLock lock(&mutex_);
  if (group_ != nullptr) {
    for (int place : group_->peers().GoneFirst()) suspects.push_back(host()[place]);
  }
  if (!suspects.empty()) return suspects;
  if (mesh_ != nullptr) {
    for (int host : mesh_->ClosedPeers()) suspects.push_back(LeaderOf(host));
  }
  if (!suspects.empty() || !timed_out) return suspects;
  const int awaited = group_ != nullptr ? group_->peers().awaited() : -1;
  if (awaited >= 0) return {host()[awaited]};
  const int hosts = static_cast<int>(hosts_.size());
  if (mesh_ != nullptr) return {LeaderOf((own_host_ + hosts - 1) % hosts)};
  return {};
}

}  // namespace

std::unique_ptr<Wire> MakeSharedMemoryWire(SharedMemoryOptions options) {
  return std::make_unique<SharedMemoryWire>(std::move(options));
}

}  // namespace vitscale
