#include "tests/worker/trainer/test_gang.h"

#include <signal.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/checkpoint/tensor_file.h"

namespace vitscale {

using link::Stage;

std::string TinyJob(const std::map<std::string, std::string>& more) {
  std::map<std::string, std::string> job = {
      {"name", "tiny"},
      {"model",
       "{custom: {patch: 7, width: 32, depth: 2, heads: 2, mlp_width: 64}, image_size: 28, "
       "channels: 1, "
       "pool: map, classes: 10, loss: sigmoid, head_bias: -2.2}"},
      {"data",
       "{train: {format: synthetic, synthetic_images: 1024}, preprocess: "
       "'flip_lr|value_range(-1,1)'}"},
      {"optimizer", "{name: adafactor, lr: 1e-3}"},
      {"schedule", "{name: rsqrt, warmup: 40 steps, timescale: 1000 steps, total: 60 steps}"},
      {"batch", "{global: 64}"},
      {"precision", "f32"},
      {"seed", "1"},
      {"checkpoint", "{dir: runs, every: 10 steps}"},
  };
  for (const auto& [key, value] : more) job[key] = value;
  std::string text;
  for (const auto& [key, value] : job) absl::StrAppend(&text, key, ": ", value, "\n");
  return text;
}

class TestGang::Sink : public ReportSink {
 public:
  Sink(TestGang& gang, int rank) : gang_(gang), rank_(rank) {}
  void Send(link::TrainerReport report) override { gang_.OnReport(rank_, std::move(report)); }

 private:
  TestGang& gang_;
  const int rank_;
};

TestGang::TestGang(Options options) : options_(std::move(options)), results_(options_.ranks) {
  signal(SIGPIPE, SIG_IGN);
  const auto job = ParseJobConfig(options_.job, "tiny.yaml",
                                  {absl::StrCat("resources.workers.min=", options_.ranks),
                                   absl::StrCat("resources.workers.max=", options_.ranks)});
  VITSCALE_CHECK(job.ok()) << job.status();
  spec_bytes_ = job->canonical_bytes;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    sinks_.push_back(std::make_unique<Sink>(*this, rank));
    ShellOptions shell;
    shell.sink = sinks_.back().get();
    shell.bucket_bytes = options_.bucket_bytes;
    const auto host = options_.hosts.find(rank);
    if (host != options_.hosts.end()) shell.pretended_host = host->second;
    if (rank == 0)
      shell.on_exchange = [this](int64_t step, uint64_t hash) {
        samples_[step] = hash;
        if (options_.on_exchange) options_.on_exchange(step);
      };
    shells_.push_back(std::make_unique<TrainerShell>(shell));
  }
}

TestGang::~TestGang() = default;

std::vector<TestGang::Result> TestGang::Run() {
  for (int rank = 0; rank < options_.ranks; ++rank) {
    link::TrainerOrder order;
    order.setup = link::TrainerSetup{};
    order.setup->worker_id = absl::StrCat("w", rank);
    order.setup->threads = 1;
    order.setup->device = options_.device == "cuda" ? absl::StrCat("cuda", rank) : options_.device;
    order.setup->data_address = "127.0.0.1";
    order.setup->data_roots = {options_.data_root};
    order.setup->checkpoint_roots = {options_.checkpoint_roots.empty()
                                         ? options_.checkpoint_root
                                         : options_.checkpoint_roots[rank]};
    const auto faults = options_.faults.find(rank);
    if (faults != options_.faults.end()) order.setup->faults = faults->second;
    shells_[rank]->Post(OrderEvent{order});
  }
  {
    absl::MutexLock lock(&mutex_);
    OrderAll(Stage::kPrepare);
  }
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    threads.emplace_back([this, rank] {
      const int code = shells_[rank]->Run();
      absl::MutexLock lock(&mutex_);
      results_[rank].exit_code = code;
      results_[rank].error = shells_[rank]->error();
      Advance();
    });
  }
  for (std::thread& thread : threads) thread.join();
  absl::MutexLock lock(&mutex_);
  return results_;
}

void TestGang::OnReport(int rank, link::TrainerReport report) {
  absl::MutexLock lock(&mutex_);
  if (report.observed) results_[rank].observed = *std::move(report.observed);
  if (report.metrics) results_[rank].metrics = *std::move(report.metrics);
  for (link::SpooledRecord& record : report.records)
    results_[rank].records.push_back(std::move(record));
  Advance();
}

void TestGang::Advance() {
  bool all_prepared = true, all_formed = true, all_finished = true, broken = false, all_know = true;
  for (const Result& result : results_) {
    const link::ObservedState& observed = result.observed;
    const bool gone = result.exit_code >= 0;
    all_prepared &= observed.stage >= Stage::kPrepare;
    all_formed &= observed.stage == Stage::kForm && observed.promised_generation == generation_;
    all_finished &= observed.finished;
    broken |= observed.collective_failed && observed.generation == generation_;
    broken |= gone && !all_finished;
    all_know &= gone || observed.collective_failed;
  }
  if (stage_ == Stage::kPrepare && all_prepared) {
    ++generation_;
    return OrderAll(Stage::kForm);
  }
  if (stage_ == Stage::kForm && all_formed) {
    source_ = link::Source{};
    source_.kind = link::Source::Kind::kInitialise;
    if (const auto& checkpoints = results_[0].observed.checkpoints; !checkpoints.empty()) {
      source_.kind = link::Source::Kind::kCheckpoint;
      source_.checkpoint = checkpoints.front().id;
    }
    return OrderAll(Stage::kGo);
  }
  if (stage_ != Stage::kGo) return;
  if (all_finished) return OrderAll(Stage::kExit);
  if (!broken || !all_know) return;
  std::vector<link::StateVersion> versions;
  for (const Result& result : results_)
    versions.push_back(result.observed.version.value_or(link::StateVersion{}));
  broken_versions_.push_back(versions);
  if (options_.orphan_after_break) {
    stage_ = Stage::kExit;
    link::TrainerOrder order;
    order.orphaned = true;
    for (const auto& shell : shells_) shell->Post(OrderEvent{order});
    return;
  }
  if (generation_ > options_.recoveries_max) return OrderAll(Stage::kExit);
  ++generation_;
  OrderAll(Stage::kForm);
}

void TestGang::OrderAll(Stage stage) {
  stage_ = stage;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    link::DesiredState desired;
    desired.job_id = options_.job_id;
    desired.attempt = options_.attempt;
    desired.generation = generation_;
    desired.stage = stage;
    desired.rank = rank;
    desired.spec_bytes = spec_bytes_;
    desired.purpose = link::Purpose::kTrain;
    desired.intent = intent_;
    desired.lineage = 1;
    desired.source = source_;
    desired.rendezvous =
        link::Rendezvous{absl::StrCat("secret ", generation_), options_.rendezvous_seconds};
    for (int i = 0; i < options_.ranks; ++i) {
      desired.members.push_back({i, absl::StrCat("w", i), "", results_[i].observed.data_address});
    }
    link::TrainerOrder order;
    order.desired = std::move(desired);
    shells_[rank]->Post(OrderEvent{std::move(order)});
  }
}

void TestGang::SetIntent(link::Intent intent) {
  absl::MutexLock lock(&mutex_);
  intent_ = intent;
  OrderAll(stage_);
}

int64_t TestGang::generation() const {
  absl::MutexLock lock(&mutex_);
  return generation_;
}

std::vector<TestGang::Result> RunGang(TestGang::Options options) {
  return TestGang(std::move(options)).Run();
}

std::map<std::string, std::string> ReadCheckpoint(const std::string& root, const std::string& id) {
  std::map<std::string, std::string> tensors;
  FileSystem& fs = PosixFileSystem();
  const std::string folder = absl::StrCat(root, "/runs/", id);
  const auto names = fs.List(folder);
  EXPECT_TRUE(names.ok()) << names.status();
  for (const std::string& name : names.ok() ? *names : std::vector<std::string>{}) {
    if (name == "manifest.json") continue;
    const auto reader = TensorFileReader::Open(fs, JoinPath(folder, name));
    EXPECT_TRUE(reader.ok()) << reader.status();
    if (!reader.ok()) continue;
    for (const TensorEntry& entry : reader->tensors()) {
      std::string bytes(entry.bytes, '\0');
      EXPECT_TRUE(reader
                      ->Read(entry, absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()),
                                                   bytes.size()))
                      .ok());
      tensors[entry.name] = std::move(bytes);
    }
  }
  return tensors;
}

}  // namespace vitscale
