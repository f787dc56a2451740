#include "worker/trainer/engine/engine.h"

#include <type_traits>
#include <utility>

#include "kernels/base/status.h"

namespace vitscale {
namespace {

// A label of metrics: with the host of each rank it would have a value for each set of members.
std::string WithoutHosts(std::string algorithm) {
  const size_t hosts = algorithm.find(" on hosts "), rest = algorithm.rfind(", ");
  if (hosts != std::string::npos && rest != std::string::npos && hosts < rest) {
    algorithm.erase(hosts, rest - hosts);
  }
  return algorithm;
}

}  // namespace

Engine::Engine(EngineOptions options) : options_(std::move(options)) {}

Engine::~Engine() {
  Abort();
  DropCollective();
}

CoreEvent Engine::Run(const Action& operation) {
  return std::visit(
      [this](const auto& op) -> CoreEvent {
        using Op = std::decay_t<decltype(op)>;
        if constexpr (std::is_same_v<Op, PrepareOp>)
          return DoPrepare(op);
        else if constexpr (std::is_same_v<Op, ListOp>)
          return DoList();
        else if constexpr (std::is_same_v<Op, SynchroniseOp>)
          return DoSynchronise(op);
        else if constexpr (std::is_same_v<Op, StepOp>)
          return DoStep(op);
        else if constexpr (std::is_same_v<Op, ClosingOp>)
          return DoClosing(op);
        else if constexpr (std::is_same_v<Op, SnapshotOp>)
          return DoSnapshot(op);
        else if constexpr (std::is_same_v<Op, ApplyOp>)
          return DoApply(op);
        else if constexpr (std::is_same_v<Op, EvaluateOp>)
          return DoEvaluate(op);
        else if constexpr (std::is_same_v<Op, LeaveOp>)
          return DoLeave();
        else if constexpr (std::is_same_v<Op, EmergencySaveOp>)
          return DoEmergencySave(op);
        VITSCALE_CHECK(false) << "a note is not an operation";
        return Tick{};
      },
      operation);
}

void Engine::Abort() {
  std::shared_ptr<Collective> collective;
  {
    absl::MutexLock lock(&mutex_);
    aborted_ = true;
    collective = collective_;
    if (loader_) loader_->Cancel();
  }
  if (collective) collective->Abort();
}

void Engine::DropCollective() {
  std::shared_ptr<Collective> collective;
  std::shared_ptr<BatchLoader> loader;
  absl::MutexLock lock(&mutex_);
  aborted_ = false;
  collective.swap(collective_);
  loader.swap(loader_);
  AddHandedOver(collective.get(), totals_);
  if (loader) totals_.data_read_bytes += loader->bytes_read();
}

EngineTotals Engine::totals() const {
  absl::MutexLock lock(&mutex_);
  EngineTotals totals = totals_;
  AddHandedOver(collective_.get(), totals);
  if (loader_) totals.data_read_bytes += loader_->bytes_read();
  return totals;
}

void Engine::AddHandedOver(const Collective* collective, EngineTotals& totals) {
  const int64_t bytes = collective != nullptr ? collective->bytes_handed_over() : 0;
  if (bytes > 0) totals.collective_bytes[WithoutHosts(collective->algorithm())] += bytes;
}

CheckpointWriter::Totals Engine::checkpoint_totals() const {
  absl::MutexLock lock(&mutex_);
  return writer_ ? writer_->totals() : CheckpointWriter::Totals{};
}

void Engine::AddPhases(const std::map<std::string, double>& seconds) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [phase, s] : seconds) totals_.phase_seconds[phase] += s;
}

// What a card or its library failed at would fail in the next generation too: this rank must go.
Outcome Engine::CollectiveOutcome(const absl::Status& status) const {
  if (status.ok()) return {};
  if (device_ != "cpu" && (absl::IsInternal(status) || absl::IsResourceExhausted(status)))
    return {Annotate(status, device_), Fault::kDevice, {}};
  const auto now = collective();
  return {status, Fault::kCollective, now ? now->suspects() : std::vector<int>{}};
}

}  // namespace vitscale
