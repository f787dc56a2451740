#include "kernels/cuda/cudnn/attention_trial.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/bf16.h"
#include "kernels/base/philox.h"
#include "kernels/base/status.h"
#include "kernels/cuda/runtime/cuda_status.h"
#include "kernels/cuda/runtime/stopwatch.h"

namespace vitscale::cuda {
namespace {

constexpr int64_t kDifferentImages = 7;
constexpr int64_t kComparedImages = 16;
constexpr float kRange = 2;  // values are in [-kRange, kRange)
constexpr int kNan = 0xff;   // every byte of a NaN, in bf16 as in f32
constexpr int64_t kBf16Bytes = sizeof(uint16_t);

std::vector<uint16_t> RandomValues(int64_t count) {
  Draws draws(/*seed=*/0, DrawPurpose::kBenchmark, /*step=*/0, /*index=*/0);
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& value : values) value = ToBf16(kRange * (2 * draws.UniformFloat() - 1));
  return values;
}

// The images that are compared: the first, the last and others evenly between them.
std::vector<int64_t> ComparedImages(int64_t batch) {
  const int64_t count = std::min(batch, kComparedImages);
  std::vector<int64_t> images;
  for (int64_t i = 0; i < count; ++i) {
    images.push_back(count == 1 ? 0 : i * (batch - 1) / (count - 1));
  }
  return images;
}

absl::Status Copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind,
                  const CudaStream& stream) {
  return CudaStatus(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream.get()),
                    "copy data to compare attention on");
}

absl::Status FillWithNan(const DeviceMemory& memory, const CudaStream& stream) {
  return CudaStatus(
      cudaMemsetAsync(memory.data(), kNan, static_cast<size_t>(memory.bytes()), stream.get()),
      "clear results of attention");
}

// False for NaN.
bool Near(double value, double own, double absolute, double relative) {
  return std::abs(value - own) <= absolute + relative * std::abs(own);
}

std::string Difference(const std::string& where, double value, double own, double bound) {
  return absl::StrCat(where, " is ", value, ", by our own ", own, ", want within ", bound);
}

}  // namespace

AttentionBounds BoundsOfAttention(const AttentionSize& size) {
  const double dim = static_cast<double>(size.head_dim), tokens = static_cast<double>(size.tokens);
  const double score = (dim + 8) * 0x1p-24 * dim * kRange * kRange / std::sqrt(dim);
  const double weight = 2 * score + 0x1p-8 + (2 * tokens + 32) * 0x1p-24;
  return {.out_absolute = 2 * weight * kRange,
          .out_relative = 2 * 0x1p-8,
          .log_sum_exp_absolute = 2 * (score + (tokens + 8) * 0x1p-22),
          .log_sum_exp_relative = 2 * 0x1p-22};
}

absl::StatusOr<AttentionTrial> AttentionTrial::Create(const AttentionSize& size, int64_t l2_bytes) {
  constexpr char kWhat[] = "operands to compare attention on";
  VITSCALE_ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create());
  AttentionTrial trial(size, std::move(stream));
  const int64_t out_bytes = size.rows() * size.width() * kBf16Bytes;
  const int64_t log_sum_exp_bytes = size.rows() * size.heads * int64_t{sizeof(float)};
  VITSCALE_ASSIGN_OR_RETURN(trial.qkv_, DeviceMemory::Allocate(3 * out_bytes, kWhat));
  VITSCALE_ASSIGN_OR_RETURN(trial.out_, DeviceMemory::Allocate(out_bytes, kWhat));
  VITSCALE_ASSIGN_OR_RETURN(trial.log_sum_exp_, DeviceMemory::Allocate(log_sum_exp_bytes, kWhat));
  VITSCALE_ASSIGN_OR_RETURN(trial.flush_, DeviceMemory::Allocate(2 * l2_bytes, kWhat));
  VITSCALE_RETURN_IF_ERROR(trial.FillInput());
  return trial;
}

AttentionOperands AttentionTrial::operands() const {
  return {qkv_.data(), out_.data(), reinterpret_cast<float*>(log_sum_exp_.data())};
}

// Some images from the host, then copies of what is there already until the batch is full.
absl::Status AttentionTrial::FillInput() {
  const int64_t image = qkv_.bytes() / size_.batch;
  int64_t done = std::min(size_.batch, kDifferentImages);
  const std::vector<uint16_t> values = RandomValues(done * image / kBf16Bytes);
  VITSCALE_RETURN_IF_ERROR(
      Copy(qkv_.data(), values.data(), done * image, cudaMemcpyHostToDevice, stream_));
  while (done < size_.batch) {
    const int64_t more = std::min(done, size_.batch - done);
    VITSCALE_RETURN_IF_ERROR(Copy(qkv_.data() + done * image, qkv_.data(), more * image,
                                  cudaMemcpyDeviceToDevice, stream_));
    done += more;
  }
  return stream_.Synchronize();
}

absl::StatusOr<AttentionTrial::Results> AttentionTrial::RunOnce(const AttentionForward& forward) {
  VITSCALE_RETURN_IF_ERROR(FillWithNan(out_, stream_));
  VITSCALE_RETURN_IF_ERROR(FillWithNan(log_sum_exp_, stream_));
  VITSCALE_RETURN_IF_ERROR(forward(operands(), stream_.get()));
  const int64_t out = out_.bytes() / size_.batch, sums = log_sum_exp_.bytes() / size_.batch;
  const std::vector<int64_t> images = ComparedImages(size_.batch);
  Results results;
  results.out.resize(images.size() * static_cast<size_t>(out / kBf16Bytes));
  results.log_sum_exp.resize(images.size() * static_cast<size_t>(sums) / sizeof(float));
  auto* to_out = reinterpret_cast<std::byte*>(results.out.data());
  auto* to_sums = reinterpret_cast<std::byte*>(results.log_sum_exp.data());
  for (const int64_t image : images) {
    VITSCALE_RETURN_IF_ERROR(
        Copy(to_out, out_.data() + image * out, out, cudaMemcpyDeviceToHost, stream_));
    VITSCALE_RETURN_IF_ERROR(
        Copy(to_sums, log_sum_exp_.data() + image * sums, sums, cudaMemcpyDeviceToHost, stream_));
    to_out += out;
    to_sums += sums;
  }
  VITSCALE_RETURN_IF_ERROR(stream_.Synchronize());
  return results;
}

std::string AttentionTrial::FirstDifference(const Results& own, const Results& other) const {
  const AttentionBounds bounds = BoundsOfAttention(size_);
  const std::vector<int64_t> images = ComparedImages(size_.batch);
  const auto width = static_cast<size_t>(size_.width()), tokens = static_cast<size_t>(size_.tokens);
  for (size_t i = 0; i < own.out.size(); ++i) {
    const double want = FromBf16(own.out[i]), got = FromBf16(other.out[i]);
    if (Near(got, want, bounds.out_absolute, bounds.out_relative)) continue;
    return Difference(absl::StrCat("out of image ", images[i / width / tokens], ", token ",
                                   i / width % tokens, ", column ", i % width),
                      got, want, bounds.out_absolute + bounds.out_relative * std::abs(want));
  }
  const size_t of_image = static_cast<size_t>(size_.heads) * tokens;
  for (size_t i = 0; i < own.log_sum_exp.size(); ++i) {
    const double want = own.log_sum_exp[i], got = other.log_sum_exp[i];
    if (Near(got, want, bounds.log_sum_exp_absolute, bounds.log_sum_exp_relative)) continue;
    return Difference(
        absl::StrCat("log_sum_exp of image ", images[i / of_image], ", head ",
                     i / tokens % static_cast<size_t>(size_.heads), ", token ", i % tokens),
        got, want, bounds.log_sum_exp_absolute + bounds.log_sum_exp_relative * std::abs(want));
  }
  return "";
}

absl::StatusOr<std::string> AttentionTrial::Disagreement(const AttentionForward& own,
                                                         const AttentionForward& other) {
  VITSCALE_ASSIGN_OR_RETURN(const Results want, RunOnce(own));
  VITSCALE_ASSIGN_OR_RETURN(const Results got, RunOnce(other));
  return FirstDifference(want, got);
}

absl::StatusOr<double> AttentionTrial::MedianSeconds(const AttentionForward& forward) {
  return MedianSecondsCold(flush_, stream_, [&] { return forward(operands(), stream_.get()); });
}

}  // namespace vitscale::cuda
