#include "worker/trainer/standalone.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/await.h"
#include "kernels/base/clock.h"
#include "kernels/base/hash.h"
#include "kernels/base/net.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {
namespace {

using link::Stage;

constexpr int64_t kGeneration = 1;

// False for what a killed run left in the rendezvous file: rank 0 listens before it writes.
bool Listens(const std::string& address) {
  const auto parsed = ParseHostPort(address);
  return parsed.ok() && ConnectTcp(*parsed, absl::Seconds(1)).ok();
}

bool IsAddress(const std::string& rendezvous) { return ParseHostPort(rendezvous).ok(); }

}  // namespace

StandaloneDriver::StandaloneDriver(StandaloneOptions options, std::function<void(CoreEvent)> post,
                                   std::function<void(const link::SpooledRecord&)> on_record)
    : options_(std::move(options)), post_(std::move(post)), on_record_(std::move(on_record)) {}

void StandaloneDriver::Start() {
  absl::MutexLock lock(&mutex_);
  if (options_.rank == 0 && options_.world_size > 1 && !IsAddress(options_.rendezvous)) {
    (void)PosixFileSystem().Remove(
        options_.rendezvous);  // of a run before; the others wait for a new one
  }
  link::TrainerOrder order;
  order.setup = options_.setup;
  post_(OrderEvent{order});
  Order(Stage::kPrepare);
}

void StandaloneDriver::Order(Stage stage, bool kill) {
  stage_ = stage;
  link::DesiredState desired;
  desired.job_id = options_.job_id;
  desired.attempt = options_.attempt;
  desired.generation = stage == Stage::kPrepare ? 0 : kGeneration;
  desired.stage = stage;
  desired.rank = options_.rank;
  desired.kill = kill;
  desired.spec_bytes = options_.spec_bytes;
  desired.purpose = link::Purpose::kTrain;
  desired.intent = stops_ > 0 ? link::Intent::kPause : link::Intent::kRun;
  desired.lineage = 1;
  desired.source = source_;
  for (int rank = 0; rank < options_.world_size; ++rank) {
    desired.members.push_back(
        {rank, absl::StrCat("rank ", rank), "", rank == 0 ? rank0_address_ : ""});
  }
  // Ranks of one job file meet; the network is a trusted one (README).
  desired.rendezvous =
      link::Rendezvous{absl::StrCat(absl::Hex(Hash64(options_.spec_bytes, 1), absl::kZeroPad16)),
                       absl::ToDoubleSeconds(options_.rendezvous_timeout)};
  link::TrainerOrder order;
  order.desired = std::move(desired);
  post_(OrderEvent{std::move(order)});
}

void StandaloneDriver::Send(link::TrainerReport report) {
  for (const link::SpooledRecord& record : report.records) on_record_(record);
  if (!report.observed) return;
  observed_ = *std::move(report.observed);
  absl::MutexLock lock(&mutex_);
  Advance();
}

void StandaloneDriver::Advance() {
  if (exit_code_) return;
  if (observed_.collective_failed) {
    exit_code_ = static_cast<int>(link::TrainerExit::kCollective);
    error_ = observed_.error;
    return Order(Stage::kExit, /*kill=*/true);
  }
  if (observed_.finished) return stage_ == Stage::kExit ? void() : Order(Stage::kExit);
  if (stage_ == Stage::kPrepare && observed_.stage == Stage::kPrepare) return Order(Stage::kForm);
  if (stage_ != Stage::kForm || observed_.stage != Stage::kForm) return;
  link::Source source;
  source.kind = link::Source::Kind::kInitialise;
  if (!observed_.checkpoints.empty()) {
    source.kind = link::Source::Kind::kCheckpoint;
    source.checkpoint = observed_.checkpoints.front().id;
  }
  source_ = source;
  const auto address = RendezvousAddress();
  if (exit_code_) return;  // stopped meanwhile
  if (!address.ok()) {
    exit_code_ = static_cast<int>(link::TrainerExit::kCollective);
    error_ = std::string(address.status().message());
    return Order(Stage::kExit, /*kill=*/true);
  }
  rank0_address_ = *address;
  Order(Stage::kGo);
}

// Rank 0 tells where it listens, the others find out.
absl::StatusOr<std::string> StandaloneDriver::RendezvousAddress() {
  if (options_.world_size == 1 || options_.rank == 0) {
    if (options_.world_size > 1 && !IsAddress(options_.rendezvous)) {
      VITSCALE_RETURN_IF_ERROR(
          WriteFileAtomically(PosixFileSystem(), options_.rendezvous,
                              absl::StrCat(options_.attempt, " ", observed_.data_address, "\n")));
    }
    return observed_.data_address;
  }
  if (IsAddress(options_.rendezvous)) return options_.rendezvous;
  const absl::Time deadline = RealClock().Monotonic() + options_.rendezvous_timeout;
  while (true) {
    const auto text = PosixFileSystem().ReadFile(options_.rendezvous, 1024);
    if (text.ok()) {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(absl::StripSuffix(*text, "\n"), absl::MaxSplits(' ', 1));
      if (parts.first == absl::StrCat(options_.attempt) && Listens(parts.second)) {
        return parts.second;
      }
    }
    if (stops_ > 0) return absl::CancelledError("asked to stop");
    if (RealClock().Monotonic() > deadline) {
      return absl::UnavailableError(absl::StrCat(
          "rendezvous file '", options_.rendezvous, "': rank 0 of attempt ", options_.attempt,
          " did not write it within ", absl::FormatDuration(options_.rendezvous_timeout)));
    }
    // Lets RequestStop in.
    AwaitFor(mutex_,
             absl::Condition(
                 +[](int* stops) { return *stops > 0; }, &stops_),
             absl::Milliseconds(20));
  }
}

void StandaloneDriver::RequestStop() {
  absl::MutexLock lock(&mutex_);
  ++stops_;
  if (exit_code_) return;
  if (stops_ > 1 || stage_ != Stage::kGo) {
    exit_code_ = static_cast<int>(link::TrainerExit::kPreemptedUnsaved);
    return Order(Stage::kExit, /*kill=*/true);
  }
  Order(Stage::kGo);
}

int StandaloneDriver::ExitCode(int shell_code) const {
  absl::MutexLock lock(&mutex_);
  return exit_code_.value_or(shell_code);
}

std::string StandaloneDriver::error() const {
  absl::MutexLock lock(&mutex_);
  return error_;
}

absl::StatusOr<StartPoint> FindStartPoint(FileSystem& fs,
                                          const std::vector<std::string>& checkpoint_roots,
                                          const std::string& checkpoint_dir,
                                          const std::string& job_id) {
  const auto directory = ResolveBelow(fs, checkpoint_roots, checkpoint_dir, MustExist::kNo);
  if (!directory.ok()) return Annotate(directory.status(), "checkpoint.dir");
  VITSCALE_ASSIGN_OR_RETURN(const bool exists, fs.Exists(JoinPath(*directory, job_id)));
  StartPoint start;
  if (!exists) return start;
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointStore store,
                            CheckpointStore::Open(fs, *directory, job_id));
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointListing listing, store.List());
  int64_t greatest = 0;
  for (const CheckpointEntry& entry : listing.valid) {
    greatest = std::max(greatest, entry.manifest.name.attempt);
    if (!start.checkpoint && !entry.abandoned) start.checkpoint = entry;  // newest first
  }
  for (const IncompleteEntry& entry : listing.incomplete)
    greatest = std::max(greatest, entry.name.attempt);
  start.attempt = greatest + 1;
  return start;
}

std::string StandaloneJobId(const std::string& job_name) {
  constexpr char kDigits[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  uint64_t hash = Hash64(job_name);
  std::string id;
  for (int i = 0; i < 12; ++i, hash /= 36) id.push_back(kDigits[hash % 36]);
  return id;
}

}  // namespace vitscale
