// The one wrapper around Gloo: a full mesh of TCP pairs, its exceptions as statuses, and a way to
// end its waits.
//
// Not thread-safe but for Shutdown and ClosedPeers. Operations wait for as long as it takes;
// whoever wants a deadline calls Shutdown at it. Tags must differ between operations that could be
// confused: two ranks whose tags differ wait for each other for ever instead of mixing their bytes.

#ifndef WORKER_COLLECTIVE_GLOO_MESH_H_
#define WORKER_COLLECTIVE_GLOO_MESH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace vitscale {

class GlooMesh {
 public:
  // Opens one listening socket per peer on `host`. `connect_timeout` bounds ConnectAll for each
  // peer.
  static absl::StatusOr<std::unique_ptr<GlooMesh>> Create(int rank, int world_size,
                                                          const std::string& host,
                                                          absl::Duration connect_timeout);
  ~GlooMesh();

  // Where the peers find this rank's sockets: for the rendezvous.
  std::string Addresses() const;
  // `addresses`: Addresses() of all ranks, in rank order.
  absl::Status ConnectAll(const std::vector<std::string>& addresses);

  absl::Status AllReduceSum(absl::Span<float> values, uint32_t tag);
  absl::Status AllGather(absl::string_view own, absl::Span<char> all, uint32_t tag);
  absl::Status Broadcast(int root, absl::Span<std::byte> bytes, uint32_t tag);
  absl::Status Barrier(uint32_t tag);

  // Ends every wait on this mesh, on both ends of each connection. Any thread, any time, also
  // during ConnectAll.
  void Shutdown();
  // Peers whose end of the connection is closed already: ask before Shutdown.
  std::vector<int> ClosedPeers() const;

 private:
  struct State;
  explicit GlooMesh(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_GLOO_MESH_H_
