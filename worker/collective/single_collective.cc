#include "worker/collective/single_collective.h"

#include <atomic>

namespace vitscale {
namespace {

class SingleCollective : public Collective {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  std::string algorithm() const override { return "single"; }

  absl::Status Connect(absl::Duration) override { return Alive(); }
  void Start(int, absl::Span<float>) override {}
  absl::StatusOr<std::vector<ControlRecord>> ExchangeRecords(const ControlRecord& own,
                                                             absl::Duration) override {
    if (aborted_) return Alive();
    return std::vector<ControlRecord>{own};
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view own,
                                                     absl::Duration) override {
    if (aborted_) return Alive();
    return std::vector<std::string>{std::string(own)};
  }
  absl::Status Broadcast(int, absl::Span<std::byte>, absl::Duration) override { return Alive(); }
  absl::Status Barrier(absl::Duration) override { return Alive(); }
  void Abort() override { aborted_ = true; }
  std::vector<int> suspects() const override { return {}; }
  int64_t bytes_handed_over() const override { return 0; }

 private:
  absl::Status Alive() const {
    return aborted_ ? absl::CancelledError("collective: aborted") : absl::OkStatus();
  }
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::unique_ptr<Collective> MakeSingleCollective() { return std::make_unique<SingleCollective>(); }

}  // namespace vitscale
