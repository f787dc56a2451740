#include "tests/worker/trainer/fake_gang.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "worker/checkpoint/checkpoint_name.h"

namespace vitscale {
namespace {

constexpr char kJob[] = "job000000000";

const char* NameOf(const Action& action) {
  constexpr const char* kNames[] = {"Prepare",       "List",          "Synchronise", "Step",
                                    "Closing",       "Snapshot",      "Apply",       "Evaluate",
                                    "Leave",         "EmergencySave", "Abort",       "Drop",
                                    "WriteManifest", "AbandonSave",   "Emit",        "Exit"};
  return kNames[action.index()];
}

bool IsOperation(const Action& action) { return action.index() <= 9; }

bool NeedsAll(const Action& action) {
  return std::holds_alternative<SynchroniseOp>(action) || std::holds_alternative<StepOp>(action) ||
         std::holds_alternative<ClosingOp>(action) || std::holds_alternative<EvaluateOp>(action) ||
         std::holds_alternative<LeaveOp>(action);
}

std::string IdOf(int64_t generation, int64_t step, bool emergency = false) {
  return CheckpointId(kJob, CheckpointName{1, generation, step, emergency});
}

}  // namespace

uint64_t NextDigest(uint64_t digest, int64_t step) { return CombineHash(digest, step) | 1; }

FakeGang::FakeGang(int ranks, RunFacts facts)
    : facts_(std::move(facts)), ranks_(ranks), parts_(ranks) {
  for (Rank& rank : ranks_) rank.core = std::make_unique<TrainerCore>();
}

void FakeGang::Order(int rank, link::Stage stage, int64_t generation,
                     const std::function<void(link::DesiredState&)>& edit) {
  link::DesiredState desired;
  desired.job_id = kJob;
  desired.attempt = 1;
  desired.generation = generation;
  desired.stage = stage;
  desired.rank = rank;
  desired.intent = link::Intent::kRun;
  desired.purpose = link::Purpose::kTrain;
  desired.lineage = 1;
  for (int i = 0; i < size(); ++i) desired.members.push_back({i, absl::StrCat("w", i), "", ""});
  desired.rendezvous = link::Rendezvous{"secret", 10};
  if (edit) edit(desired);
  link::TrainerOrder order;
  order.desired = desired;
  Feed(rank, OrderEvent{order});
}

link::Source FakeGang::NewestSource() const {
  link::Source source;
  source.kind = link::Source::Kind::kInitialise;
  int64_t newest = -1;
  for (const auto& [id, manifest] : manifests) {
    if (manifest.state.step <= newest) continue;
    newest = manifest.state.step;
    source.kind = link::Source::Kind::kCheckpoint;
    source.checkpoint = id;
  }
  return source;
}

void FakeGang::Form(int64_t generation) {
  for (link::Stage stage : {link::Stage::kPrepare, link::Stage::kForm, link::Stage::kGo}) {
    if (stage == link::Stage::kGo) {
      RunUntil([&] {
        for (Rank& rank : ranks_) {
          if (rank.alive() && rank.core->observed().stage != link::Stage::kForm) return false;
        }
        return true;
      });
    }
    const link::Source source = NewestSource();
    for (int i = 0; i < size(); ++i) {
      if (!ranks_[i].alive()) continue;
      Order(i, stage, generation, [&](link::DesiredState& desired) { desired.source = source; });
    }
  }
}

void FakeGang::Feed(int i, const CoreEvent& event) {
  Rank& rank = ranks_[i];
  if (!rank.alive()) return;
  now += absl::Milliseconds(10);
  for (Action& action : rank.core->Handle(event, now)) {
    if (!std::holds_alternative<EmitNote>(action)) rank.log.push_back(NameOf(action));
    if (IsOperation(action)) {
      rank.operation = std::move(action);
    } else if (std::holds_alternative<AbortNote>(action)) {
      rank.aborted = true;
    } else if (std::holds_alternative<DropCollectiveNote>(action)) {
      rank.connected = rank.aborted = false;
    } else if (auto* emit = std::get_if<EmitNote>(&action)) {
      rank.records.push_back(emit->record);
    } else if (auto* manifest = std::get_if<WriteManifestNote>(&action)) {
      manifest_ = {i, *manifest};
    } else if (auto* abandon = std::get_if<AbandonSaveNote>(&action)) {
      if (parts_[i] && parts_[i]->step == abandon->step) parts_[i].reset();
    } else if (auto* exit = std::get_if<ExitNote>(&action)) {
      rank.exit = *exit;
      rank.connected = false;
    }
  }
}

Outcome FakeGang::FailureOf(int i) {
  if (fail) {
    if (Outcome outcome = fail(i, *ranks_[i].operation); !outcome.status.ok()) return outcome;
  }
  if (NeedsAll(*ranks_[i].operation) && ranks_[i].aborted) {
    return {absl::CancelledError("aborted"), Fault::kCollective, {}};
  }
  return {};
}

ControlRecord FakeGang::Complete(int i, ControlRecord record, bool closing) {
  if (!closing) {
    record.images = facts_.batch_global / size() + (i < facts_.batch_global % size() ? 1 : 0);
    record.set_loss_sum(record.images * (1.0 + 1.0 / static_cast<double>(record.step)));
    if (non_finite.contains({i, record.step})) {
      record.set_loss_sum(std::numeric_limits<double>::quiet_NaN());
      record.set(RecordFlag::kNonFinite);
    }
  }
  if (falsify) falsify(i, record);
  return record;
}

// Ends a collective operation on all members at once.
void FakeGang::EndTogether(const std::vector<int>& members) {
  std::vector<Action> operations;
  for (int i : members) operations.push_back(*std::exchange(ranks_[i].operation, std::nullopt));
  std::vector<ControlRecord> records;
  for (int i : members) {
    if (auto* step = std::get_if<StepOp>(&operations[i])) {
      records.push_back(Complete(i, step->record, false));
    } else if (auto* closing = std::get_if<ClosingOp>(&operations[i])) {
      records.push_back(Complete(i, closing->record, true));
    }
  }
  for (int i : members) {
    Rank& rank = ranks_[i];
    if (auto* synchronise = std::get_if<SynchroniseOp>(&operations[i])) {
      const link::Source& source = *synchronise->desired.source;
      rank.state = FakeState{};
      if (source.kind == link::Source::Kind::kCheckpoint)
        rank.state = manifests.at(source.checkpoint).state;
      rank.connected = true;
      Feed(i, Synchronised{{}, rank.state.step, rank.state.digest, 1, source.checkpoint, false});
    } else if (auto* evaluate = std::get_if<EvaluateOp>(&operations[i])) {
      Evaluated done;
      done.record.name = absl::StrCat("eval", evaluate->index);
      done.record.step = evaluate->step;
      done.record.final = evaluate->final;
      Feed(i, done);
    } else if (std::holds_alternative<LeaveOp>(operations[i])) {
      Feed(i, Left{});
    } else {
      Exchanged done;
      done.records = records;
      Feed(i, done);
    }
  }
}

// Fails what can only fail, or ends a collective operation if every rank is in it.
bool FakeGang::Together(int i) {
  Rank& rank = ranks_[i];
  std::vector<int> members;
  bool peer_lost = false, all_in = true;
  for (int j = 0; j < size(); ++j) {
    members.push_back(j);
    const Rank& peer = ranks_[j];
    // A peer that left the generation has closed its connections; one that never joined is waited
    // for.
    const bool syncing = std::holds_alternative<SynchroniseOp>(*rank.operation);
    peer_lost |= !peer.alive() || (!syncing && !peer.connected) || peer.aborted;
    all_in &= peer.operation && peer.operation->index() == rank.operation->index();
  }
  Outcome outcome = FailureOf(i);
  if (outcome.status.ok() && peer_lost) {
    outcome = {absl::UnavailableError("peer lost"), Fault::kCollective, {}};
  }
  if (outcome.status.ok()) {
    for (int j = 0; all_in && j < size(); ++j) all_in &= FailureOf(j).status.ok();
    if (all_in) EndTogether(members);
    return all_in;
  }
  const Action operation = *std::exchange(rank.operation, std::nullopt);
  rank.connected = false;
  if (std::holds_alternative<SynchroniseOp>(operation))
    Feed(i, Synchronised{outcome});
  else if (std::holds_alternative<EvaluateOp>(operation))
    Feed(i, Evaluated{outcome});
  else if (std::holds_alternative<LeaveOp>(operation))
    Feed(i, Left{outcome});
  else
    Feed(i, Exchanged{outcome});
  return true;
}

bool FakeGang::Local(int i) {
  Rank& rank = ranks_[i];
  const Outcome outcome = FailureOf(i);
  const Action operation = *std::exchange(rank.operation, std::nullopt);
  if (std::holds_alternative<PrepareOp>(operation)) {
    Feed(i, Prepared{outcome, facts_});
  } else if (std::holds_alternative<ListOp>(operation)) {
    Listed listed{outcome};
    for (const auto& [id, manifest] : manifests) {
      link::CheckpointInfo info;
      info.id = id;
      info.step = manifest.state.step;
      listed.checkpoints.insert(listed.checkpoints.begin(), info);
    }
    Feed(i, listed);
  } else if (auto* snapshot = std::get_if<SnapshotOp>(&operation)) {
    parts_[i] = Part{snapshot->generation, snapshot->step, rank.state};
    snapshots_[snapshot->step] = rank.state;
    Feed(i, SnapshotTaken{outcome});
  } else if (auto* apply = std::get_if<ApplyOp>(&operation)) {
    Applied applied{outcome};
    if (outcome.status.ok()) {
      rank.state.step = apply->step;
      if (apply->apply) rank.state.digest = NextDigest(rank.state.digest, apply->step);
      applied.skipped = !apply->apply;
      applied.digest = apply->want_digest ? rank.state.digest : 0;
    }
    Feed(i, applied);
  } else if (auto* emergency = std::get_if<EmergencySaveOp>(&operation)) {
    EmergencySaved saved{outcome};
    saved.checkpoint.id = IdOf(rank.core->observed().generation, emergency->step, true);
    Feed(i, saved);
  }
  return true;
}

bool FakeGang::Background(int i) {
  if (parts_[i] && !held_parts.contains(i)) {
    const Part part = *std::exchange(parts_[i], std::nullopt);
    PartWritten written{part.generation, part.step, absl::OkStatus(), 100, 7};
    if (part_status) written.status = part_status(i, part.step);
    if (written.status.ok()) durable_parts.push_back({i, part.step});
    Feed(i, written);
    return true;
  }
  if (manifest_ && manifest_->first == i) {
    const WriteManifestNote note = std::exchange(manifest_, std::nullopt)->second;
    ManifestWritten written{note.generation, note.step, manifest_status, {}, {}};
    if (manifest_status.ok()) {
      written.checkpoint.id = IdOf(note.generation, note.step);
      written.checkpoint.step = note.step;
      written.checkpoint.final = note.final;
      manifests[written.checkpoint.id] = {note.generation, snapshots_.at(note.step)};
    }
    Feed(i, written);
    return true;
  }
  return false;
}

bool FakeGang::Turn() {
  for (int i = 0; i < size(); ++i) {
    if (!ranks_[i].alive()) continue;
    if (ranks_[i].operation && !NeedsAll(*ranks_[i].operation)) return Local(i);
    if (Background(i)) return true;
  }
  for (int i = 0; i < size(); ++i) {
    if (ranks_[i].alive() && ranks_[i].operation && Together(i)) return true;
  }
  return false;
}

void FakeGang::RunUntilQuiet() {
  for (int turns = 0; turns < 100000 && Turn(); ++turns) {
  }
}

bool FakeGang::RunUntil(const std::function<bool()>& condition) {
  while (!condition()) {
    if (!Turn()) return false;
  }
  return true;
}

void FakeGang::Kill(int i) {
  ranks_[i].core.reset();
  ranks_[i].operation.reset();
  ranks_[i].connected = ranks_[i].aborted = false;
  parts_[i].reset();
  if (manifest_ && manifest_->first == i) manifest_.reset();
}

void FakeGang::Restart(int i) {
  ranks_[i].core = std::make_unique<TrainerCore>();
  ranks_[i].exit.reset();
  ranks_[i].state = FakeState{};
}

}  // namespace vitscale
