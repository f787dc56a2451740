#include "worker/agent/spool.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/crc32c.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/link/codec.h"

namespace vitscale::agent {
namespace {

constexpr absl::string_view kMagic = "vspool1\n";
constexpr absl::string_view kPrefix = "segment-";
constexpr absl::string_view kSuffix = ".spool";
constexpr int64_t kHeaderBytes = 20;
constexpr int64_t kFrameHeaderBytes = 8;
constexpr int64_t kSegmentBytesMax = 128 << 20;
constexpr int kThinRoundsMax = 16;

template <typename T>
void Put(std::string& to, T value) {
  static_assert(std::endian::native == std::endian::little);
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T Get(absl::string_view from) {
  T value;
  std::memcpy(&value, from.data(), sizeof(value));
  return value;
}

std::string Frame(const std::string& bytes) {
  std::string frame;
  Put<uint32_t>(frame, static_cast<uint32_t>(bytes.size()));
  Put<uint32_t>(frame, Crc32c(bytes));
  return frame += bytes;
}

std::string Header(int64_t next_number) {
  std::string header(kMagic);
  Put<int64_t>(header, next_number);
  Put<uint32_t>(header, Crc32c(header));
  return header;
}

int64_t HeaderNumber(absl::string_view header) {
  return Get<int64_t>(header.substr(kMagic.size()));
}

// Number in "segment-000000000012.spool"; 0: no segment.
int64_t SegmentNumber(absl::string_view name) {
  int64_t number = 0;
  if (!absl::StartsWith(name, kPrefix) || !absl::EndsWith(name, kSuffix)) return 0;
  name.remove_prefix(kPrefix.size());
  name.remove_suffix(kSuffix.size());
  return absl::SimpleAtoi(name, &number) ? number : 0;
}

}  // namespace

// ---- reading -----------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Spool>> Spool::Open(FileSystem& fs, SpoolOptions options) {
  auto spool = std::unique_ptr<Spool>(new Spool(fs, std::move(options)));
  const std::string& directory = spool->options_.directory;
  VITSCALE_RETURN_IF_ERROR(fs.MakeDirectories(directory));
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(directory));
  std::map<int64_t, Entry> found;  // by number: a compaction that was cut leaves records twice
  int64_t damaged_bytes = 0;
  for (const std::string& name : names) {
    if (SegmentNumber(name) == 0) continue;
    VITSCALE_RETURN_IF_ERROR(spool->ReadSegment(name, found, damaged_bytes));
  }
  for (auto& [number, entry] : found) {
    spool->bytes_ += static_cast<int64_t>(entry.bytes.size());
    spool->next_number_ = std::max(spool->next_number_, number + 1);
    spool->entries_.push_back(std::move(entry));
  }
  if (damaged_bytes > 0) {
    link::SpooledRecord record;
    record.record = link::Event{
        .kind = "spool_damaged",
        .message = absl::StrCat(damaged_bytes, " bytes of '", directory, "' were lost")};
    VITSCALE_RETURN_IF_ERROR(spool->Append({std::move(record)}));
  }
  return spool;
}

absl::Status Spool::ReadSegment(const std::string& name, std::map<int64_t, Entry>& found,
                                int64_t& damaged_bytes) {
  const std::string path = JoinPath(options_.directory, name);
  VITSCALE_ASSIGN_OR_RETURN(const std::string text, fs_.ReadFile(path, kSegmentBytesMax));
  next_segment_ = std::max(next_segment_, SegmentNumber(name) + 1);
  Segment segment{path};
  absl::string_view rest = text;
  if (rest.size() >= kHeaderBytes && rest.substr(0, kHeaderBytes) == Header(HeaderNumber(rest))) {
    next_number_ = std::max(next_number_, HeaderNumber(rest));
  } else {
    damaged_bytes += std::min<int64_t>(kHeaderBytes, static_cast<int64_t>(rest.size()));
  }
  rest.remove_prefix(std::min<size_t>(kHeaderBytes, rest.size()));
  while (!rest.empty()) {
    const uint32_t size = rest.size() < kFrameHeaderBytes ? 0 : Get<uint32_t>(rest);
    if (rest.size() < kFrameHeaderBytes || rest.size() - kFrameHeaderBytes < size) {
      damaged_bytes += static_cast<int64_t>(rest.size());  // cut by a crash
      break;
    }
    const std::string bytes(rest.substr(kFrameHeaderBytes, size));
    const auto record = Crc32c(bytes) == Get<uint32_t>(rest.substr(4)) ? link::DecodeRecord(bytes)
                                                                       : absl::DataLossError("crc");
    if (record.ok() && record->number > 0) {
      segment.last_number = std::max(segment.last_number, record->number);
      found[record->number] = MakeEntry(*record, bytes);
    } else {
      damaged_bytes += kFrameHeaderBytes + size;
    }
    rest.remove_prefix(kFrameHeaderBytes + size);
  }
  segments_.push_back(std::move(segment));
  return absl::OkStatus();
}

Spool::Entry Spool::MakeEntry(const link::SpooledRecord& record, std::string bytes) {
  Entry entry{.number = record.number,
              .bytes = std::move(bytes),
              .job_id = record.job_id,
              .attempt = record.attempt};
  if (const auto* step = std::get_if<link::StepRecord>(&record.record)) {
    entry.kind = Entry::Kind::kStep;
    entry.first_step = entry.last_step = step->step;
  } else if (const auto* gap = std::get_if<link::Gap>(&record.record)) {
    entry.kind = Entry::Kind::kGap;
    entry.first_step = gap->first_step;
    entry.last_step = gap->last_step;
  } else if (std::holds_alternative<link::LogLine>(record.record)) {
    entry.kind = Entry::Kind::kLog;
  }
  return entry;
}

// ---- writing -----------------------------------------------------------------

absl::Status Spool::Append(std::vector<link::SpooledRecord> records) {
  for (link::SpooledRecord& record : records) Push(std::move(record));
  if (bytes_ > options_.bytes_max) ThinOut();
  return WriteUnwritten();
}

void Spool::Push(link::SpooledRecord record) {
  record.number = next_number_++;
  record.incarnation = options_.incarnation;
  std::string bytes = link::EncodeRecord(record);
  bytes_ += static_cast<int64_t>(bytes.size());
  entries_.push_back(MakeEntry(record, std::move(bytes)));
  ++unwritten_;
}

absl::Status Spool::StartSegment() {
  if (file_ != nullptr) (void)file_->Close();
  file_ = nullptr;
  const std::string path = JoinPath(
      options_.directory, absl::StrCat(kPrefix, absl::StrFormat("%012d", next_segment_), kSuffix));
  ++next_segment_;
  VITSCALE_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs_.CreateExclusive(path));
  segments_.push_back({path});
  VITSCALE_RETURN_IF_ERROR(file->Append(Header(next_number_)));
  VITSCALE_RETURN_IF_ERROR(fs_.SyncDirectory(options_.directory));
  file_ = std::move(file);
  file_bytes_ = kHeaderBytes;
  return absl::OkStatus();
}

// On an error the segment is given up: whether its last frame is whole is not known. What is not
// known to be written goes to the next segment, so a record may be on disk twice, never not at all.
absl::Status Spool::WriteUnwritten() {
  if (unwritten_ == 0) return absl::OkStatus();
  if (file_ == nullptr || file_bytes_ >= options_.segment_bytes) {
    VITSCALE_RETURN_IF_ERROR(StartSegment());
  }
  std::string frames;
  bool lifecycle = false;
  for (size_t i = entries_.size() - unwritten_; i < entries_.size(); ++i) {
    frames += Frame(entries_[i].bytes);
    lifecycle |=
        entries_[i].kind == Entry::Kind::kLifecycle || entries_[i].kind == Entry::Kind::kGap;
  }
  absl::Status status = file_->Append(frames);
  if (status.ok() && lifecycle) status = file_->Sync();
  // Also after an error: records may have reached the segment, which must stay until they are
  // acknowledged.
  segments_.back().last_number = entries_.back().number;
  if (!status.ok()) {
    file_ = nullptr;
    return status;
  }
  file_bytes_ += static_cast<int64_t>(frames.size());
  unwritten_ = 0;
  return absl::OkStatus();
}

// ---- handing in --------------------------------------------------------------

void Spool::Acknowledge(int64_t number) {
  while (!entries_.empty() && entries_.front().number <= number) {
    bytes_ -= static_cast<int64_t>(entries_.front().bytes.size());
    entries_.pop_front();
  }
  unwritten_ = std::min(unwritten_, entries_.size());
  RemoveAcknowledgedSegments();
}

// The newest segment stays: it carries the next number over a restart.
void Spool::RemoveAcknowledgedSegments() {
  const int64_t oldest = entries_.empty() ? next_number_ : entries_.front().number;
  while (segments_.size() > 1 && segments_.front().last_number < oldest) {
    if (absl::Status status = fs_.Remove(segments_.front().path);
        !status.ok() && !absl::IsNotFound(status)) {
      VITSCALE_LOG(WARNING) << status.message();
    }
    segments_.pop_front();
  }
}

bool Spool::HasUnsent() const {
  if (entries_.empty() || entries_.back().number <= sent_) return false;
  int64_t in_flight = 0;
  for (const Entry& entry : entries_) {
    if (entry.number > sent_) break;
    in_flight += static_cast<int64_t>(entry.bytes.size());
    if (in_flight >= options_.in_flight_max) return false;
  }
  return true;
}

std::vector<absl::string_view> Spool::TakeUnsent(int64_t bytes_max) {
  std::vector<absl::string_view> taken;
  if (!HasUnsent()) return taken;
  auto next = std::upper_bound(entries_.begin(), entries_.end(), sent_,
                               [](int64_t number, const Entry& e) { return number < e.number; });
  int64_t bytes = 0;
  for (; next != entries_.end(); ++next) {
    bytes += static_cast<int64_t>(next->bytes.size());
    if (bytes > bytes_max && !taken.empty()) break;
    taken.push_back(next->bytes);
    sent_ = next->number;
  }
  return taken;
}

// ---- overflow ----------------------------------------------------------------

void Spool::ThinOut() {
  std::vector<Entry> dropped;
  for (int round = 0; round < kThinRoundsMax && bytes_ > options_.bytes_max / 4 * 3; ++round) {
    DropEverySecond(Entry::Kind::kStep, dropped);
    DropEverySecond(Entry::Kind::kLog, dropped);
  }
  if (dropped.empty()) return;
  dropped_ += static_cast<int64_t>(dropped.size());
  RecordDropped(dropped);
  if (absl::Status status = Compact(); !status.ok()) VITSCALE_LOG(WARNING) << status.message();
}

void Spool::DropEverySecond(Entry::Kind kind, std::vector<Entry>& dropped) {
  std::deque<Entry> kept;
  bool drop = false;
  for (Entry& entry : entries_) {
    if (entry.kind == kind) drop = !drop;
    if (entry.kind != kind || !drop) {
      kept.push_back(std::move(entry));
      continue;
    }
    bytes_ -= static_cast<int64_t>(entry.bytes.size());
    entry.bytes.clear();
    dropped.push_back(std::move(entry));
  }
  entries_ = std::move(kept);
}

// One gap per attempt: an older one that nobody has acknowledged yet is widened.
void Spool::RecordDropped(const std::vector<Entry>& dropped) {
  using Attempt = std::pair<std::string, int64_t>;
  std::map<Attempt, link::Gap> gaps;
  std::map<Attempt, int64_t> lines;
  for (const Entry& entry : dropped) {
    const Attempt attempt{entry.job_id, entry.attempt};
    if (entry.kind == Entry::Kind::kLog) {
      ++lines[attempt];
      continue;
    }
    auto [gap, is_new] = gaps.try_emplace(attempt, link::Gap{entry.first_step, entry.last_step});
    gap->second.first_step = std::min(gap->second.first_step, entry.first_step);
    gap->second.last_step = std::max(gap->second.last_step, entry.last_step);
  }
  for (auto it = entries_.begin(); it != entries_.end();) {
    auto gap = gaps.find({it->job_id, it->attempt});
    if (it->kind != Entry::Kind::kGap || gap == gaps.end()) {
      ++it;
      continue;
    }
    gap->second.first_step = std::min(gap->second.first_step, it->first_step);
    gap->second.last_step = std::max(gap->second.last_step, it->last_step);
    bytes_ -= static_cast<int64_t>(it->bytes.size());
    it = entries_.erase(it);
  }
  for (const auto& [attempt, gap] : gaps) {
    Push({.job_id = attempt.first, .attempt = attempt.second, .record = gap});
  }
  for (const auto& [attempt, count] : lines) {
    link::LogLine line{.text = absl::StrCat(count,
                                            " lines of output were dropped here: the agent "
                                            "could not hand them in"),
                       .attempt = attempt.second};
    Push({.job_id = attempt.first, .attempt = attempt.second, .record = std::move(line)});
  }
}

// Writes what is left to new segments, then removes the old ones.
absl::Status Spool::Compact() {
  const std::deque<Segment> old = std::exchange(segments_, {});
  unwritten_ = entries_.size();
  absl::Status status = StartSegment();
  if (status.ok()) status = WriteUnwritten();
  if (status.ok()) status = file_->Sync();
  if (!status.ok()) {
    segments_.insert(segments_.begin(), old.begin(), old.end());
    return status;
  }
  for (const Segment& segment : old) {
    if (absl::Status removed = fs_.Remove(segment.path); !removed.ok()) status = removed;
  }
  return status;
}

}  // namespace vitscale::agent
