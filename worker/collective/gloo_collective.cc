#include "worker/collective/gloo_collective.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gloo/config.h"
#include "kernels/base/status.h"
#include "worker/collective/gloo_mesh.h"
#include "worker/collective/queued_collective.h"

namespace vitscale {
namespace {

class GlooWire : public Wire {
 public:
  explicit GlooWire(GlooOptions options)
      : options_(std::move(options)),
        rendezvous_(options_.identity, options_.rank, options_.world_size) {}

  int rank() const override { return options_.rank; }
  int world_size() const override { return options_.world_size; }
  std::string algorithm() const override { return "gloo_ring"; }

  absl::Status Connect(absl::Duration timeout) override {
    VITSCALE_ASSIGN_OR_RETURN(
        std::unique_ptr<GlooMesh> created,
        GlooMesh::Create(options_.rank, options_.world_size, options_.data_address, timeout));
    {
      absl::MutexLock lock(&mutex_);
      mesh_ = std::move(created);
    }
    GlooMesh& mesh = Mesh();
    VITSCALE_ASSIGN_OR_RETURN(
        const std::vector<std::string> addresses,
        rendezvous_.Meet(options_.rank0_address, options_.listener, mesh.Addresses(), timeout));
    VITSCALE_RETURN_IF_ERROR(mesh.ConnectAll(addresses));
    absl::MutexLock lock(&mutex_);
    if (down_) mesh.Shutdown();  // it came before the sockets were known
    return absl::OkStatus();
  }

  absl::Status AllReduceSum(absl::Span<float> values, uint32_t tag) override {
    return Mesh().AllReduceSum(values, tag);
  }
  absl::Status AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag) override {
    return Mesh().AllGather(own, all, tag);
  }
  absl::Status Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag) override {
    return Mesh().Broadcast(root, bytes, tag);
  }
  absl::Status Barrier(uint32_t tag) override { return Mesh().Barrier(tag); }

  void Shutdown() override {
    rendezvous_.Cancel();
    absl::MutexLock lock(&mutex_);
    down_ = true;
    if (mesh_ != nullptr) mesh_->Shutdown();
  }

  std::vector<int> ClosedPeers() const override {
    absl::MutexLock lock(&mutex_);
    return mesh_ != nullptr ? mesh_->ClosedPeers() : std::vector<int>{};
  }

  // Those whose connections are closed; after a silence the left neighbour, on whom a ring waits.
  std::vector<int> Suspects(bool timed_out) const override {
    std::vector<int> suspects = rendezvous_.missing();
    if (suspects.empty()) suspects = ClosedPeers();
    if (suspects.empty() && timed_out && options_.world_size > 1) {
      suspects.push_back((options_.rank + options_.world_size - 1) % options_.world_size);
    }
    return suspects;
  }

 private:
  // Operations run without the lock; the mesh lives as long as this object.
  GlooMesh& Mesh() const {
    absl::MutexLock lock(&mutex_);
    VITSCALE_CHECK(mesh_ != nullptr) << "operations come after Connect";
    return *mesh_;
  }

  const GlooOptions options_;
  class Rendezvous rendezvous_;
  mutable absl::Mutex mutex_;
  std::unique_ptr<GlooMesh> mesh_ ABSL_GUARDED_BY(mutex_);
  bool down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::unique_ptr<Wire> MakeGlooWire(GlooOptions options) {
  return std::make_unique<GlooWire>(std::move(options));
}

std::unique_ptr<Collective> MakeGlooCollective(GlooOptions options) {
  return MakeQueuedCollective(MakeGlooWire(std::move(options)));
}

std::string GlooVersion() {
  return absl::StrCat("Gloo ", GLOO_VERSION_MAJOR, ".", GLOO_VERSION_MINOR, ".",
                      GLOO_VERSION_PATCH);
}

}  // namespace vitscale
