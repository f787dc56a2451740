#include "worker/bench/allreduce_bench.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/collective/gloo_collective.h"
#include "worker/collective/rendezvous.h"

namespace vitscale {
namespace {

constexpr char kLoopback[] = "127.0.0.1";
constexpr absl::Duration kTimeout = absl::Minutes(2);

// f32 values of each bucket.
absl::StatusOr<std::vector<int64_t>> BucketSizes(const AllReduceOptions& options) {
  std::vector<int64_t> sizes;
  if (options.bytes > 0) {
    for (int64_t left = options.bytes / 4; left > 0; left -= sizes.back())
      sizes.push_back(std::min(left, options.bucket_bytes / 4));
    return sizes;
  }
  auto request = RequestOf(options.run);
  if (!request.ok()) {
    return Annotate(request.status(), "--bytes, or a model");
  }
  request->bucket_bytes = options.bucket_bytes;
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(*request));
  for (const Bucket& bucket : plan.layout.buckets) sizes.push_back(bucket.bytes / 4);
  return sizes;
}

struct Times {
  std::vector<double> sums, records;
};

class Rank {
 public:
  Rank(std::unique_ptr<Collective> collective, const std::vector<int64_t>& sizes)
      : collective_(std::move(collective)) {
    for (int64_t size : sizes) buckets_.emplace_back(size);
  }

  absl::StatusOr<Times> Run(int steps) {
    const absl::Status status = DoRun(steps);
    if (!status.ok()) {
      collective_->Abort();
      return Annotate(status, absl::StrCat("rank ", collective_->rank()));
    }
    return times_;
  }
  std::string algorithm() const { return collective_->algorithm(); }

 private:
  absl::Status DoRun(int steps) {
    VITSCALE_RETURN_IF_ERROR(collective_->Connect(kTimeout));
    VITSCALE_RETURN_IF_ERROR(CheckSum());
    for (int i = 0; i < steps; ++i) {
      VITSCALE_RETURN_IF_ERROR(Exchange(/*with_buckets=*/true, times_.sums));
    }
    for (int i = 0; i < steps; ++i) {
      VITSCALE_RETURN_IF_ERROR(Exchange(/*with_buckets=*/false, times_.records));
    }
    return absl::OkStatus();
  }
  // Also the warm-up. Zeros stay zeros however often they are summed.
  absl::Status CheckSum() {
    const int n = collective_->world_size();
    const float wanted = static_cast<float>(n * (n + 1) / 2);
    for (auto& bucket : buckets_) {
      std::fill(bucket.begin(), bucket.end(), static_cast<float>(collective_->rank() + 1));
    }
    std::vector<double> ignored;
    VITSCALE_RETURN_IF_ERROR(Exchange(/*with_buckets=*/true, ignored));
    for (auto& bucket : buckets_) {
      for (float value : bucket) {
        if (value == wanted) continue;
        return absl::InternalError(absl::StrCat("a sum is ", value, ", want ", wanted));
      }
      std::fill(bucket.begin(), bucket.end(), 0.0f);
    }
    return absl::OkStatus();
  }
  absl::Status Exchange(bool with_buckets, std::vector<double>& seconds) {
    VITSCALE_RETURN_IF_ERROR(collective_->Barrier(kTimeout));
    absl::Status status;
    seconds.push_back(SecondsOf([&] {
      for (size_t i = 0; with_buckets && i < buckets_.size(); ++i)
        collective_->Start(static_cast<int>(i), absl::MakeSpan(buckets_[i]));
      status = collective_->ExchangeRecords({}, kTimeout).status();
    }));
    return status;
  }

  std::unique_ptr<Collective> collective_;
  std::vector<std::vector<float>> buckets_;
  Times times_;
};

std::unique_ptr<Collective> MakeCollective(const AllReduceOptions& options, int rank,
                                           RendezvousListener* listener) {
  GlooOptions gloo;
  gloo.identity.secret = "vitscale-bench";
  gloo.rank = rank;
  gloo.world_size = options.ranks;
  gloo.data_address = kLoopback;
  gloo.rank0_address = listener->address();
  gloo.listener = rank == 0 ? listener : nullptr;
  return MakeGlooCollective(std::move(gloo));
}

// Of every repetition the slowest rank.
void TakeSlowest(const std::vector<double>& rank, std::vector<double>& slowest) {
  slowest.resize(rank.size(), 0);
  for (size_t i = 0; i < rank.size(); ++i) slowest[i] = std::max(slowest[i], rank[i]);
}

absl::StatusOr<Times> RunRanks(std::vector<Rank>& ranks, int steps) {
  std::vector<absl::StatusOr<Times>> results(ranks.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < ranks.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = ranks[i].Run(steps); });
  }
  for (std::thread& thread : threads) thread.join();
  Times times;
  for (const auto& result : results) {
    VITSCALE_RETURN_IF_ERROR(result.status());
    TakeSlowest(result->sums, times.sums);
    TakeSlowest(result->records, times.records);
  }
  return times;
}

}  // namespace

void AddAllReduceFlags(CLI::App& command, AllReduceOptions& o) {
  command
      .add_option("--bytes", o.bytes, "Bytes of one rank's gradients, instead of those of a model")
      ->check(WholeNumber(4, int64_t{1} << 36));
  command.add_option("--ranks", o.ranks, "Ranks, all on this machine")
      ->check(WholeNumber(2, 64))
      ->capture_default_str();
  command.add_option("--bucket-bytes", o.bucket_bytes, "Largest bucket that is sent as one")
      ->check(WholeNumber(4, int64_t{1} << 36))
      ->capture_default_str();
  AddShapeFlags(command, o.run);
  AddRunFlags(command, o.run);
}

absl::StatusOr<nlohmann::json> BenchAllReduce(const AllReduceOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, BucketSizes(options));
  VITSCALE_ASSIGN_OR_RETURN(const auto listener, RendezvousListener::Open(kLoopback));
  std::vector<Rank> ranks;
  for (int rank = 0; rank < options.ranks; ++rank)
    ranks.emplace_back(MakeCollective(options, rank, listener.get()), sizes);
  VITSCALE_ASSIGN_OR_RETURN(const Times times, RunRanks(ranks, options.run.steps));
  int64_t bytes = 0;
  for (int64_t size : sizes) bytes += 4 * size;
  const double seconds = Median(times.sums), n = options.ranks;
  return nlohmann::json{
      {"ranks", options.ranks},
      {"algorithm", ranks[0].algorithm()},
      {"bytes", bytes},
      {"buckets", sizes.size()},
      {"seconds", seconds},
      {"seconds_min", *std::min_element(times.sums.begin(), times.sums.end())},
      {"seconds_max", *std::max_element(times.sums.begin(), times.sums.end())},
      {"bytes_per_second", static_cast<double>(bytes) / seconds},
      {"wire_bytes_per_second", 2 * (n - 1) / n * static_cast<double>(bytes) / seconds},
      {"phases", {{"all_reduce", seconds}, {"record_alone", Median(times.records)}}},
      {"peak_rss_bytes", PeakResidentBytes()}};
}

}  // namespace vitscale
