#include "worker/trainer/core/gate.h"

#include <algorithm>
#include <map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vitscale {
namespace {

absl::Status Differs(int rank, absl::string_view what, int64_t was, int64_t want) {
  return absl::FailedPreconditionError(
      absl::StrCat("control record: rank ", rank, " is at ", what, " ", was, ", want ", want));
}

absl::Status CheckRecord(const ControlRecord& want, const ControlRecord& record, int rank) {
  if (record.version != want.version) return Differs(rank, "layout", record.version, want.version);
  if (record.rank != rank) return Differs(rank, "rank", record.rank, rank);
  if (record.world_size != want.world_size) {
    return Differs(rank, "world size", record.world_size, want.world_size);
  }
  if (record.job_hash != want.job_hash) {
    return absl::FailedPreconditionError(
        absl::StrCat("control record: rank ", rank, " works for another job"));
  }
  if (record.attempt != want.attempt) return Differs(rank, "attempt", record.attempt, want.attempt);
  if (record.generation != want.generation) {
    return Differs(rank, "generation", record.generation, want.generation);
  }
  if (record.step != want.step) return Differs(rank, "step", record.step, want.step);
  if (record.plan_hash != want.plan_hash) {
    return absl::FailedPreconditionError(absl::StrCat("control record: rank ", rank, " has plan ",
                                                      absl::Hex(record.plan_hash), ", want ",
                                                      absl::Hex(want.plan_hash)));
  }
  if (record.has(RecordFlag::kClosing) != want.has(RecordFlag::kClosing)) {
    return absl::FailedPreconditionError(
        absl::StrCat("control record: rank ", rank,
                     want.has(RecordFlag::kClosing) ? " trains" : " closes", " at step ", want.step,
                     ", this rank ", want.has(RecordFlag::kClosing) ? "closes" : "trains"));
  }
  if (record.has(RecordFlag::kHasDigest) != want.has(RecordFlag::kHasDigest)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "control record: rank ", rank, " and this rank differ about a digest at step ", want.step));
  }
  return absl::OkStatus();
}

void AddUp(const ControlRecord& record, Agreement& agreement) {
  agreement.loss_sum += record.loss_sum();
  agreement.images += record.images;
  agreement.correct += record.correct;
  agreement.stop |= record.has(RecordFlag::kStop);
  agreement.checkpoint |= record.has(RecordFlag::kCheckpoint);
  agreement.regroup |= record.has(RecordFlag::kRegroup);
  agreement.non_finite |= record.has(RecordFlag::kNonFinite);
}

std::vector<double> Skew(absl::Span<const ControlRecord> records) {
  int64_t first = records[0].arrival_micros;
  for (const ControlRecord& record : records) first = std::min(first, record.arrival_micros);
  std::vector<double> skew;
  for (const ControlRecord& record : records)
    skew.push_back((record.arrival_micros - first) * 1e-6);
  return skew;
}

}  // namespace

ControlRecord MakeRecord(const GenerationIdentity& identity, int64_t step) {
  ControlRecord record;
  record.job_hash = identity.job_hash;
  record.attempt = identity.attempt;
  record.generation = identity.generation;
  record.plan_hash = identity.plan_hash;
  record.rank = identity.rank;
  record.world_size = identity.world_size;
  record.step = step;
  return record;
}

std::vector<int> DigestMinority(absl::Span<const ControlRecord> records) {
  std::map<uint64_t, int> votes;
  for (const ControlRecord& record : records) {
    if (!record.has(RecordFlag::kHasDigest)) return {};
    ++votes[record.digest];
  }
  if (votes.size() <= 1) return {};
  const auto most = std::max_element(
      votes.begin(), votes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const bool majority = 2 * most->second > static_cast<int>(records.size());
  std::vector<int> minority;
  for (size_t rank = 0; rank < records.size(); ++rank) {
    if (!majority || records[rank].digest != most->first) minority.push_back(rank);
  }
  return minority;
}

absl::StatusOr<Agreement> CheckRecords(const GenerationIdentity& identity, int64_t step,
                                       bool closing, int64_t images,
                                       absl::Span<const ControlRecord> records) {
  if (static_cast<int>(records.size()) != identity.world_size) {
    return absl::FailedPreconditionError(
        absl::StrCat("control records: ", records.size(), " came, want ", identity.world_size));
  }
  ControlRecord want = MakeRecord(identity, step);
  want.set(RecordFlag::kClosing, closing);
  want.set(RecordFlag::kHasDigest, records[identity.rank].has(RecordFlag::kHasDigest));
  Agreement agreement;
  for (int rank = 0; rank < identity.world_size; ++rank) {
    if (absl::Status status = CheckRecord(want, records[rank], rank); !status.ok()) return status;
    AddUp(records[rank], agreement);
  }
  if (agreement.images != images) {
    return absl::FailedPreconditionError(absl::StrCat("control records: step ", step, " has ",
                                                      agreement.images, " images, want ", images));
  }
  if (const std::vector<int> minority = DigestMinority(records); !minority.empty()) {
    return absl::DataLossError(absl::StrCat("digest of step ", step - 1, " differs on rank ",
                                            absl::StrJoin(minority, ", "),
                                            ": replicas are no longer the same"));
  }
  if (want.has(RecordFlag::kHasDigest)) agreement.digest = records[0].digest;
  agreement.arrival_skew_seconds = Skew(records);
  return agreement;
}

absl::Status CheckVersions(absl::Span<const link::StateVersion> versions) {
  for (size_t rank = 1; rank < versions.size(); ++rank) {
    const link::StateVersion& was = versions[rank];
    const link::StateVersion& want = versions[0];
    if (was == want) continue;
    return absl::DataLossError(absl::StrCat(
        "synchronisation: rank ", rank, " holds step ", was.step, " digest ", absl::Hex(was.digest),
        " lineage ", was.lineage, " generation ", was.established_generation, ", rank 0 step ",
        want.step, " digest ", absl::Hex(want.digest), " lineage ", want.lineage, " generation ",
        want.established_generation));
  }
  return absl::OkStatus();
}

}  // namespace vitscale
