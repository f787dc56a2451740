#include "worker/trainer/train_output.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/clock.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr absl::Duration kBarEvery = absl::Milliseconds(200);
constexpr absl::Duration kLineEvery = absl::Seconds(5);
constexpr int kBarWidth = 28;
constexpr char kCsvHeader[] =
    "step,images,loss,gradient_norm,learning_rate,parameter_norm,update_norm,train_accuracy,"
    "step_seconds,skipped,samples\n";

}  // namespace

TrainOutput::TrainOutput(bool bar, bool quiet)
    : bar_(bar), quiet_(quiet), shown_(absl::InfinitePast()), began_(RealClock().Monotonic()) {}

TrainOutput::~TrainOutput() { Finish(); }

absl::Status TrainOutput::CsvError(int error) const {
  return ErrnoStatus(error, absl::StrCat("--steps-csv: write '", csv_path_, "'"));
}

absl::Status TrainOutput::OpenCsv(const std::string& path) {
  csv_path_ = path;
  const auto info = PosixFileSystem().Stat(path);
  const bool goes_on = info.ok() && info->is_regular && info->bytes > 0;
  csv_.reset(fopen(path.c_str(), goes_on ? "r+e" : "we"));
  if (!csv_) return ErrnoStatus(errno, absl::StrCat("--steps-csv: open '", path, "'"));
  if (!goes_on) {
    if (fputs(kCsvHeader, csv_.get()) < 0 || fflush(csv_.get()) != 0) return CsvError(errno);
    return absl::OkStatus();
  }
  std::string header(sizeof(kCsvHeader) - 1, '\0');
  header.resize(fread(header.data(), 1, header.size(), csv_.get()));
  if (header != kCsvHeader) {
    return absl::InvalidArgumentError(
        absl::StrCat("--steps-csv: '", path,
                     "' is there and was not written by --steps-csv: wanted a new file"));
  }
  csv_cut_ = false;
  return absl::OkStatus();
}

// Leaves the whole rows before `step`; a row that a kill cut short goes, too.
absl::Status TrainOutput::CutCsvAt(int64_t step) {
  long end = sizeof(kCsvHeader) - 1;
  if (fseek(csv_.get(), end, SEEK_SET) != 0) return CsvError(errno);
  char row[1024];
  while (fgets(row, sizeof(row), csv_.get()) != nullptr) {
    const absl::string_view text = row;
    int64_t of = 0;
    if (!absl::EndsWith(text, "\n") || !absl::SimpleAtoi(text.substr(0, text.find(',')), &of) ||
        of >= step) {
      break;
    }
    end += static_cast<long>(text.size());
  }
  if (fseek(csv_.get(), end, SEEK_SET) != 0 || ftruncate(fileno(csv_.get()), end) != 0)
    return CsvError(errno);
  return absl::OkStatus();
}

void TrainOutput::WriteRow(const link::StepRecord& record, uint64_t samples) {
  if (!csv_ || !csv_status_.ok()) return;
  if (!std::exchange(csv_cut_, true)) csv_status_ = CutCsvAt(record.step);
  if (csv_status_.ok()) {
    absl::FPrintF(csv_.get(), "%d,%d,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g,%.6f,%d,%016x\n",
                  record.step, record.images, record.loss, record.gradient_norm,
                  record.learning_rate, record.parameter_norm, record.update_norm,
                  record.train_accuracy, record.step_seconds, record.skipped ? 1 : 0, samples);
    if (fflush(csv_.get()) != 0) csv_status_ = CsvError(errno);
  }
  if (csv_status_.ok()) return;
  Finish();
  fprintf(stderr, "vitscale-train: %s; training goes on without it\n",
          std::string(csv_status_.message()).c_str());
}

absl::Status TrainOutput::CloseCsv() {
  if (csv_ && fclose(csv_.release()) != 0 && csv_status_.ok()) csv_status_ = CsvError(errno);
  return csv_status_;
}

void TrainOutput::OnSamples(int64_t step, uint64_t hash) {
  if (!csv_) return;  // nobody would take them out again
  absl::MutexLock lock(&mutex_);
  samples_[step] = hash;
}

void TrainOutput::OnRecord(const link::SpooledRecord& record) {
  if (const auto* step = std::get_if<link::StepRecord>(&record.record)) {
    Show(*step);
  } else if (const auto* eval = std::get_if<link::EvalRecord>(&record.record)) {
    evals_[eval->name] = *eval;
    std::string values;
    for (const auto& [name, value] : eval->values)
      absl::StrAppend(&values, absl::StrFormat(" %s %.4f", name, value));
    Line(absl::StrFormat("step %d: %s%s (%d images, %.1f s)", eval->step, eval->name, values,
                         eval->eval_images, eval->seconds));
  } else if (const auto* checkpoint = std::get_if<link::CheckpointInfo>(&record.record)) {
    if (!checkpoint->deleted)
      Line(absl::StrCat("step ", checkpoint->step, ": saved ", checkpoint->path));
  } else if (const auto* event = std::get_if<link::Event>(&record.record)) {
    Line(absl::StrCat(event->kind, ": ", event->message));
  }
}

void TrainOutput::Show(const link::StepRecord& record) {
  last_ = record;
  uint64_t samples = 0;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = samples_.find(record.step);
    if (found != samples_.end()) samples = found->second;
    samples_.erase(samples_.begin(), samples_.upper_bound(record.step));
  }
  WriteRow(record, samples);
  if (first_step_ < 0) {
    first_step_ = record.step;
    began_ = RealClock().Monotonic();
  } else {
    for (const auto& [phase, seconds] : record.phase_seconds) phase_seconds_[phase] += seconds;
  }
  const absl::Time now = RealClock().Monotonic();
  if (quiet_ || now - shown_ < (bar_ ? kBarEvery : kLineEvery)) return;
  shown_ = now;
  const double seconds = absl::ToDoubleSeconds(now - began_);
  const int64_t done = record.step - first_step_;
  const double per_second = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double images_per_second =
      per_second * static_cast<double>(record.images) / static_cast<double>(record.step);
  const int64_t eta =
      per_second > 0 ? static_cast<int64_t>((total_steps_ - record.step) / per_second) : 0;
  const std::string text =
      absl::StrFormat("step %d/%d  loss %.4f  lr %.2e  norm %.3f  %.0f images/s  ETA %d s",
                      record.step, total_steps_, record.loss, record.learning_rate,
                      record.gradient_norm, images_per_second, eta);
  if (!bar_) return Line(text);
  const int filled =
      total_steps_ > 0 ? static_cast<int>(kBarWidth * record.step / total_steps_) : 0;
  fprintf(stderr, "\r[%s%s] %s\033[K", std::string(filled, '=').c_str(),
          std::string(kBarWidth - filled, ' ').c_str(), text.c_str());
  bar_open_ = true;
}

std::string TrainOutput::PhasesText() const {
  std::vector<std::pair<double, std::string>> phases;
  double sum = 0;
  for (const auto& [phase, seconds] : phase_seconds_) {
    phases.emplace_back(-seconds, phase);
    sum += seconds;
  }
  std::sort(phases.begin(), phases.end());  // longest first
  std::vector<std::string> texts;
  for (const auto& [seconds, phase] : phases)
    texts.push_back(absl::StrFormat("%s %.1f %%", phase, -100 * seconds / sum));
  return absl::StrJoin(texts, ", ");
}

void TrainOutput::Line(const std::string& text) {
  if (quiet_) return;
  Finish();
  fprintf(stderr, "%s\n", text.c_str());
}

void TrainOutput::Finish() {
  if (bar_open_) fputc('\n', stderr);
  bar_open_ = false;
}

}  // namespace vitscale
