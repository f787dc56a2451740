#include "kernels/cuda/blas_cache.h"

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"
#include "kernels/cuda/machine_file.h"

namespace vitscale::cuda {
namespace {

constexpr size_t kAlgorithmWords = std::size(cublasLtMatmulAlgo_t{}.data);

// The first line of a file.
std::string Head(const std::string& machine) { return absl::StrCat("algorithms 1 of ", machine); }

}  // namespace

AlgorithmCache& AlgorithmCache::OfProcess(const std::string& machine) {
  static std::mutex mutex;
  static auto* caches = new std::map<std::string, std::unique_ptr<AlgorithmCache>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<AlgorithmCache>& cache = (*caches)[machine];
  if (cache == nullptr) {
    cache = std::make_unique<AlgorithmCache>(machine);
    (void)cache->Load(cache->DefaultPath());  // what cannot be read is measured anew
  }
  return *cache;
}

std::string AlgorithmCache::DefaultPath() const { return MachineFilePath("cublaslt", machine_); }

std::optional<cublasLtMatmulAlgo_t> AlgorithmCache::Find(const MatmulKey& key) const {
  const absl::MutexLock lock(&mutex_);
  const auto found = algorithms_.find(key);
  if (found == algorithms_.end()) return std::nullopt;
  return found->second;
}

void AlgorithmCache::Add(const MatmulKey& key, const cublasLtMatmulAlgo_t& algorithm) {
  const absl::MutexLock lock(&mutex_);
  algorithms_[key] = algorithm;
  changed_ = true;
}

size_t AlgorithmCache::size() const {
  const absl::MutexLock lock(&mutex_);
  return algorithms_.size();
}

// The numbers of the key, then the words of the algorithm as the library's header allows to keep
// them.
void AlgorithmCache::AddLine(absl::string_view line) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  MatmulKey key;
  if (words.size() != key.size() + kAlgorithmWords) return;
  for (size_t i = 0; i < key.size(); ++i) {
    if (!absl::SimpleAtoi(words[i], &key[i])) return;
  }
  cublasLtMatmulAlgo_t algorithm{};
  for (size_t i = 0; i < kAlgorithmWords; ++i) {
    uint64_t word = 0;
    if (!absl::SimpleHexAtoi(words[key.size() + i], &word)) return;
    algorithm.data[i] = word;
  }
  algorithms_.emplace(key, algorithm);
}

absl::Status AlgorithmCache::Load(const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(const auto lines, ReadMachineFile(path, Head(machine_)));
  const absl::MutexLock lock(&mutex_);
  for (const std::string& line : lines) AddLine(line);
  return absl::OkStatus();
}

std::vector<std::string> AlgorithmCache::Merged(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) AddLine(line);
  std::vector<std::string> merged;
  for (const auto& [key, algorithm] : algorithms_) {
    std::string& line = merged.emplace_back(absl::StrJoin(key, " "));
    for (const uint64_t word : algorithm.data) absl::StrAppend(&line, " ", absl::Hex(word));
  }
  return merged;
}

absl::Status AlgorithmCache::SaveIfChanged(const std::string& path) {
  const absl::MutexLock lock(&mutex_);
  if (!changed_) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(UpdateMachineFile(
      path, Head(machine_),
      [this](const auto& lines) ABSL_NO_THREAD_SAFETY_ANALYSIS { return Merged(lines); }));
  changed_ = false;
  return absl::OkStatus();
}

}  // namespace vitscale::cuda
