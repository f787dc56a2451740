#include "worker/collective/nccl_collective.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"
#include "worker/collective/queued_collective.h"

namespace vitscale {
namespace {

// Of ranks that have met: for their devices, whatever meeting has left of the time-out.
constexpr absl::Duration kDevicesMin = absl::Seconds(4);

// What a host's network says is never the device's fault, whatever its code: UNAVAILABLE.
absl::Status OfHosts(absl::Status status) {
  if (status.ok() || absl::IsCancelled(status)) return status;
  return absl::UnavailableError(status.message());
}

class NcclWire : public Wire {
 public:
  NcclWire(std::unique_ptr<Wire> hosts, std::unique_ptr<Communicator> communicator)
      : hosts_(std::move(hosts)), devices_(std::move(communicator)) {}

  int rank() const override { return hosts_->rank(); }
  int world_size() const override { return hosts_->world_size(); }
  std::string algorithm() const override { return devices_->algorithm(); }

  absl::Status Connect(absl::Duration timeout) override {
    const absl::Time deadline = RealClock().Monotonic() + timeout;
    VITSCALE_RETURN_IF_ERROR(OfHosts(hosts_->Connect(timeout)));
    VITSCALE_ASSIGN_OR_RETURN(const std::string id, ShareId());
    return devices_->Connect(id, rank(), world_size(),
                             std::max(deadline - RealClock().Monotonic(), kDevicesMin));
  }

  // Begins only: the gather that ends every step waits for it.
  absl::Status AllReduceSum(absl::Span<float> values, uint32_t tag) override {
    asked_ = CombineHash(asked_, tag);
    return devices_->AllReduceSum(values);
  }

  absl::Status AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag) override {
    asked_ = CombineHash(asked_, tag);
    std::string tagged(reinterpret_cast<const char*>(&asked_), sizeof(asked_));
    tagged.append(own.data(), own.size());
    std::string gathered(tagged.size() * world_size(), '\0');
    VITSCALE_RETURN_IF_ERROR(devices_->AllGather(tagged, absl::MakeSpan(gathered)));
    for (int each = 0; each < world_size(); ++each) {
      const char* theirs = gathered.data() + each * tagged.size();
      VITSCALE_RETURN_IF_ERROR(CheckAsked(each, theirs));
      std::memcpy(all.data() + each * own.size(), theirs + sizeof(asked_), own.size());
    }
    return absl::OkStatus();
  }

  absl::Status Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) override {
    return OfHosts(hosts_->Broadcast(root, bytes, tag));
  }
  absl::Status Barrier(uint32_t tag) override { return OfHosts(hosts_->Barrier(tag)); }

  void Shutdown() override {
    hosts_->Shutdown();
    devices_->Abort();
  }
  std::vector<int> ClosedPeers() const override { return hosts_->ClosedPeers(); }
  std::vector<int> Suspects(bool timed_out) const override { return hosts_->Suspects(timed_out); }

 private:
  // Rank 0's; empty where it could not make one, so that all ranks fail now and not at a deadline.
  absl::StatusOr<std::string> ShareId() {
    absl::StatusOr<std::string> own = std::string();
    if (rank() == 0) own = devices_->NewId();
    uint64_t size = own.ok() ? own->size() : 0;
    VITSCALE_RETURN_IF_ERROR(ShareBytes(&size, sizeof(size), /*tag=*/1));
    if (!own.ok()) return own;
    if (size == 0 || size > kIdBytesMax) {
      return absl::UnavailableError(absl::StrCat(
          "rank 0 sent an id of ", size, " bytes for the devices, want 1 to ", kIdBytesMax));
    }
    own->resize(size);
    VITSCALE_RETURN_IF_ERROR(ShareBytes(own->data(), size, /*tag=*/2));
    return own;
  }
  absl::Status ShareBytes(void* bytes, size_t size, uint32_t tag) {
    return OfHosts(hosts_->Broadcast(0, absl::MakeSpan(static_cast<std::byte*>(bytes), size), tag));
  }

  absl::Status CheckAsked(int each, const char* theirs) const {
    if (std::memcmp(theirs, &asked_, sizeof(asked_)) == 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("collective mismatch: rank ", each,
                                               " asked for other operations than rank ", rank()));
  }

  static constexpr uint64_t kIdBytesMax = 4096;
  const std::unique_ptr<Wire> hosts_;
  const std::unique_ptr<Communicator> devices_;
  uint64_t asked_ = 0;  // a hash of all operations of the devices so far
};

}  // namespace

std::unique_ptr<Wire> MakeNcclWire(std::unique_ptr<Wire> hosts,
                                   std::unique_ptr<Communicator> communicator) {
  return std::make_unique<NcclWire>(std::move(hosts), std::move(communicator));
}

std::unique_ptr<Collective> MakeNcclCollective(GlooOptions options,
                                               std::unique_ptr<Communicator> communicator) {
  return MakeQueuedCollective(
      MakeNcclWire(MakeGlooWire(std::move(options)), std::move(communicator)));
}

}  // namespace vitscale
