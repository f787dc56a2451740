#include "worker/collective/sleeping_collective.h"

#include <algorithm>
#include <utility>

#include "worker/collective/queued_collective.h"

namespace vitscale {
namespace {

class SleepingWire : public Wire {
 public:
  explicit SleepingWire(std::function<void(int64_t)> sleep) : sleep_(std::move(sleep)) {}

  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  std::string algorithm() const override { return "sleeping"; }
  absl::Status Connect(absl::Duration) override { return absl::OkStatus(); }

  absl::Status AllReduceSum(absl::Span<float> values, uint32_t) override {
    sleep_(static_cast<int64_t>(values.size() * sizeof(float)));
    return absl::OkStatus();
  }
  absl::Status AllGather(absl::string_view own, absl::Span<char> all, uint32_t) override {
    std::copy(own.begin(), own.end(), all.begin());
    return absl::OkStatus();
  }
  absl::Status Broadcast(int, absl::Span<std::byte>, uint32_t) override { return absl::OkStatus(); }
  absl::Status Barrier(uint32_t) override { return absl::OkStatus(); }

  void Shutdown() override {}
  std::vector<int> ClosedPeers() const override { return {}; }
  std::vector<int> Suspects(bool) const override { return {}; }

 private:
  const std::function<void(int64_t)> sleep_;
};

}  // namespace

std::unique_ptr<Collective> MakeSleepingCollective(std::function<void(int64_t bytes)> sleep) {
  return MakeQueuedCollective(std::make_unique<SleepingWire>(std::move(sleep)));
}

}  // namespace vitscale
