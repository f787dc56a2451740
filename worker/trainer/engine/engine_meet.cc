// GO, first part: the ranks of a generation meet. See engine.h.
//
// Ranks with a card each meet over TCP and sum with NCCL. Of others,
// which wire they take shows only when they have met: ranks of one host share memory, others talk
// over TCP. So what a wire means for the bits of a run is told afterwards and not before: the
// numerics record of PREPARE leaves `collective` empty, those of a checkpoint and of the observed
// state name what was used.

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "worker/collective/gloo_collective.h"
#include "worker/collective/host_card.h"
#include "worker/collective/nccl_collective.h"
#include "worker/collective/shared_memory_collective.h"
#include "worker/collective/single_collective.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {
namespace {

// For the second meeting, whatever the first has left: all ranks were there a moment ago.
constexpr absl::Duration kSecondMeetingMin = absl::Seconds(5);

}  // namespace

MeetingOptions Engine::Meeting(const link::DesiredState& desired) const {
  MeetingOptions options;
  options.identity.secret = desired.rendezvous ? desired.rendezvous->secret : "";
  options.identity.job_hash = Hash64(job_id_);
  options.identity.attempt = desired.attempt;
  options.identity.generation = desired.generation;
  // Ranks that wait for each other on different wires would not meet.
  options.identity.plan_hash = CombineHash(run_hash_, static_cast<uint64_t>(options_.transport));
  options.rank = desired.rank;
  options.world_size = static_cast<int>(desired.members.size());
  options.rank0_address = desired.members[0].data_address;
  options.listener = listener_.get();
  return options;
}

// From here on Abort reaches it.
absl::Status Engine::Connect(std::shared_ptr<Collective> created, absl::Duration timeout) {
  bool aborted = false;
  std::shared_ptr<Collective> before;
  {
    absl::MutexLock lock(&mutex_);
    before = std::exchange(collective_, created);
    AddHandedOver(before.get(), totals_);
    aborted = aborted_;
  }
  before.reset();  // gone before the next one meets: a process has one communicator at a time
  if (aborted) created->Abort();
  return created->Connect(timeout);
}

// Of a card. An abort that hangs takes the process with it: its agent starts another trainer.
CommunicatorOptions Engine::CommunicatorOf() const {
  CommunicatorOptions options;
  options.device = device_;
  options.on_abort_hung = [] {
    VITSCALE_LOG(ERROR) << "the abort of a sum between cards hangs: this process ends";
    _exit(static_cast<int>(link::TrainerExit::kCollective));
  };
  return options;
}

// Sums stay on the cards, whether their ranks share a host or not. INTERNAL, whatever a
// communicator that could be made at PREPARE fails at now: it is the device that has gone.
absl::Status Engine::MeetOnCards(const MeetingOptions& meeting, absl::Duration timeout) {
  auto communicator = CreateCommunicator(CommunicatorOf());
  if (!communicator.ok()) return absl::InternalError(communicator.status().message());
  GlooOptions hosts;
  static_cast<MeetingOptions&>(hosts) = meeting;
  hosts.data_address = options_.setup.data_address;
  return Connect(MakeNcclCollective(std::move(hosts), *std::move(communicator)), timeout);
}

absl::Status Engine::Meet(const link::DesiredState& desired, absl::Duration timeout) {
  if (desired.members.size() <= 1) return Connect(MakeSingleCollective(), timeout);
  const absl::Time began = options_.clock->Monotonic();
  const MeetingOptions meeting = Meeting(desired);
  if (device_ != "cpu") return MeetOnCards(meeting, timeout);
  if (options_.transport != Transport::kGloo) {
    SharedMemoryOptions shared;
    static_cast<MeetingOptions&>(shared) = meeting;
    shared.host = options_.pretended_host;
    shared.data_address = options_.setup.data_address;
    const absl::Status status = Connect(MakeSharedMemoryCollective(std::move(shared)), timeout);
    if (!IsNotOneHost(status) || options_.transport == Transport::kSharedMemory) return status;
    VITSCALE_LOG(INFO) << status.message() << "; they meet over TCP";
  }
  GlooOptions gloo;
  static_cast<MeetingOptions&>(gloo) = meeting;
  gloo.data_address = options_.setup.data_address;
  const absl::Duration left = timeout - (options_.clock->Monotonic() - began);
  return Connect(MakeGlooCollective(std::move(gloo)), std::max(left, kSecondMeetingMin));
}

// Ranks that meet where they cannot are placed wrongly; the others have lost each other, or a
// device.
Outcome Engine::MeetingOutcome(const absl::Status& status) const {
  if (IsNotOneHost(status)) return {status, Fault::kConfiguration, {}};
  if (device_ != "cpu" && absl::IsInvalidArgument(status)) {
    return {absl::InvalidArgumentError(absl::StrCat(
                device_, " of rank ", generation_.rank, " of ", generation_.members.size(), ": ",
                status.message(), "; every rank needs a card of its own")),
            Fault::kConfiguration,
            {}};
  }
  return CollectiveOutcome(status);
}

}  // namespace vitscale
