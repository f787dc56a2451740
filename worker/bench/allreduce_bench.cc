#include "worker/bench/allreduce_bench.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/bench/bench_collective.h"
#include "worker/bench/processes.h"
#include "worker/bench/rank_buckets.h"

namespace vitscale {
namespace {

using nlohmann::json;

constexpr absl::Duration kTimeout = absl::Minutes(2);

// f32 values of each bucket.
absl::StatusOr<std::vector<int64_t>> BucketSizes(const AllReduceOptions& options) {
  std::vector<int64_t> sizes;
  if (options.bytes > 0) {
    for (int64_t left = options.bytes / 4; left > 0; left -= sizes.back())
      sizes.push_back(std::min(left, options.bucket_bytes / 4));
    return sizes;
  }
  BenchOptions run = options.run;
  run.device = BenchDeviceOf(options.transport, /*rank=*/0);
  auto request = RequestOf(run);
  if (!request.ok()) {
    return Annotate(request.status(), "--bytes, or a model");
  }
  request->bucket_bytes = options.bucket_bytes;
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(*request));
  for (const Bucket& bucket : plan.layout.buckets) sizes.push_back(bucket.bytes / 4);
  return sizes;
}

class Rank {
 public:
  Rank(RankBuckets buckets, std::unique_ptr<Collective> collective)
      : buckets_(std::move(buckets)), collective_(std::move(collective)) {}

  // {algorithm, device, sums (seconds), records (seconds), peak_rss_bytes}
  absl::StatusOr<json> Run(int steps) {
    VITSCALE_RETURN_IF_ERROR(DoRun(steps));
    return json{{"algorithm", collective_->algorithm()},
                {"device", buckets_.device_name()},
                {"sums", sums_},
                {"records", records_},
                {"peak_rss_bytes", PeakResidentBytes()}};
  }

 private:
  absl::Status DoRun(int steps) {
    VITSCALE_RETURN_IF_ERROR(collective_->Connect(kTimeout));
    VITSCALE_RETURN_IF_ERROR(CheckSum());
    for (int i = 0; i < steps; ++i) {
      VITSCALE_RETURN_IF_ERROR(Exchange(/*with_buckets=*/true, sums_));
    }
    for (int i = 0; i < steps; ++i) {
      VITSCALE_RETURN_IF_ERROR(Exchange(/*with_buckets=*/false, records_));
    }
    return absl::OkStatus();
  }
  // Also the warm-up. Zeros stay zeros however often they are summed.
  absl::Status CheckSum() {
    const int n = collective_->world_size();
    VITSCALE_RETURN_IF_ERROR(buckets_.Fill(static_cast<float>(collective_->rank() + 1)));
    std::vector<double> ignored;
    VITSCALE_RETURN_IF_ERROR(Exchange(/*with_buckets=*/true, ignored));
    const float wanted = static_cast<float>(n * (n + 1) / 2);
    VITSCALE_RETURN_IF_ERROR(Annotate(buckets_.ExpectAll(wanted), "the first sum"));
    return buckets_.Fill(0.0f);
  }
  absl::Status Exchange(bool with_buckets, std::vector<double>& seconds) {
    VITSCALE_RETURN_IF_ERROR(collective_->Barrier(kTimeout));
    absl::Status status;
    seconds.push_back(SecondsOf([&] {
      for (size_t i = 0; with_buckets && i < buckets_.size(); ++i)
        collective_->Start(static_cast<int>(i), buckets_[i]);
      status = collective_->ExchangeRecords({}, kTimeout).status();
    }));
    return status;
  }

  RankBuckets buckets_;  // outlive what sums them
  std::unique_ptr<Collective> collective_;
  std::vector<double> sums_, records_;
};

absl::StatusOr<json> RunRank(const AllReduceOptions& options, const std::vector<int64_t>& sizes,
                             int rank, RendezvousListener& listener) {
  VITSCALE_ASSIGN_OR_RETURN(RankBuckets buckets,
                            RankBuckets::Create(BenchDeviceOf(options.transport, rank), sizes));
  VITSCALE_ASSIGN_OR_RETURN(auto collective,
                            MakeBenchCollective(options.transport, rank, options.ranks, listener));
  return Rank(std::move(buckets), std::move(collective)).Run(options.run.steps);
}

json Report(const AllReduceOptions& options, const std::vector<int64_t>& sizes,
            const std::vector<json>& ranks) {
  int64_t bytes = 0, peak = 0;
  for (int64_t size : sizes) bytes += 4 * size;
  for (const json& rank : ranks) peak = std::max(peak, rank["peak_rss_bytes"].get<int64_t>());
  const std::vector<double> sums = Slowest(ranks, "sums"), records = Slowest(ranks, "records");
  const double seconds = Median(sums), n = options.ranks;
  const double ring = 2 * (n - 1) / n * static_cast<double>(bytes) / seconds;
  json report = {{"ranks", options.ranks},
                 {"algorithm", ranks[0]["algorithm"]},
                 {"bytes", bytes},
                 {"buckets", sizes.size()},
                 {"seconds", seconds},
                 {"seconds_min", *std::min_element(sums.begin(), sums.end())},
                 {"seconds_max", *std::max_element(sums.begin(), sums.end())},
                 {"bytes_per_second", static_cast<double>(bytes) / seconds},
                 {"bus_bytes_per_second", ring},
                 {"phases", {{"all_reduce", seconds}, {"record_alone", Median(records)}}},
                 {"peak_rss_bytes", peak}};
  if (options.transport == "gloo") report["wire_bytes_per_second"] = ring;
  if (options.transport == "nccl") report["device"] = ranks[0]["device"];
  return report;
}

}  // namespace

void AddAllReduceFlags(CLI::App& command, AllReduceOptions& o) {
  command
      .add_option("--bytes", o.bytes, "Bytes of one rank's gradients, instead of those of a model")
      ->check(WholeNumber(4, int64_t{1} << 36));
  command
      .add_option("--ranks", o.ranks,
                  "Ranks, all on this machine; of nccl, one on each of cuda:0, cuda:1 ...")
      ->check(WholeNumber(2, 64))
      ->capture_default_str();
  command
      .add_option(
          "--transport", o.transport,
          "gloo: TCP over loopback; shared_memory: as ranks of one host; nccl: between GPUs")
      ->check(OneOfWords({"gloo", "shared_memory", "nccl"}))
      ->capture_default_str();
  command.add_option("--bucket-bytes", o.bucket_bytes, "Largest bucket that is sent as one")
      ->check(WholeNumber(4, int64_t{1} << 36))
      ->capture_default_str();
  AddShapeFlags(command, o.run);
  AddRunFlags(command, o.run);
}

absl::StatusOr<nlohmann::json> BenchAllReduce(const AllReduceOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, BucketSizes(options));
  VITSCALE_ASSIGN_OR_RETURN(const auto listener, RendezvousListener::Open(kBenchAddress));
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<json> ranks,
                            RunInProcesses(options.ranks, [&](int rank) {
                              return RunRank(options, sizes, rank, *listener);
                            }));
  return Report(options, sizes, ranks);
}

}  // namespace vitscale
