// What NVIDIA's management library says about the cards of this machine. It comes with the driver
// and is opened when it is asked for: nothing links it, and without a driver there are no cards.
//
// Functions and structs of the library are declared in nvml.cc: no header of CUDA is needed. What
// it answers is held against what can be true before anybody sees it. Source:
// https://docs.nvidia.com/deploy/nvml-api.

#ifndef WORKER_CARD_NVML_H_
#define WORKER_CARD_NVML_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vitscale {

// A process that computes on a card, by its number on the host: within a container another one.
struct CardProcess {
  int64_t pid = 0;           // 0: of a container that is not seen from here
  int64_t memory_bytes = 0;  // 0: the driver does not say, or says more than the card has
  bool operator==(const CardProcess&) const = default;
};

struct Card {
  std::string name;    // "NVIDIA H100 80GB HBM3"; printable ASCII, as all text here
  std::string uuid;    // "GPU-…"
  std::string driver;  // "580.82.07"
  int sm = 0;          // compute capability: 90
  // Without what the driver keeps for itself; a driver before 510 does not say how much that is.
  int64_t memory_bytes = 0;
  // In use by anybody, without the same.
  int64_t used_bytes = 0;
  int64_t free_bytes = 0;
  std::vector<CardProcess> processes;  // each once
  // Into instances (MIG): each has only a part of what is said here, and CUDA sees no whole card.
  bool divided = false;
};

class Nvml {
 public:
  virtual ~Nvml() = default;

  // `library`: a path; empty: what VITSCALE_NVML names, else libnvidia-ml.so.1. FAILED_PRECONDITION
  // in one line: no library, one that lacks a function, or a driver that it cannot speak to.
  static absl::StatusOr<std::unique_ptr<Nvml>> Open(const std::string& library = "");

  // Cards of this machine. INTERNAL: the library fails, or says what cannot be; it is then begun
  // anew with the next call, since one that was there before a driver was loaded again, or before a
  // card was reset, never sees them.
  virtual absl::StatusOr<int> Count() = 0;

  // The card `index`, counted by place on the bus as nvidia-smi does. NOT_FOUND names how many
  // there are; INTERNAL as above, naming the card and what was wrong.
  virtual absl::StatusOr<Card> Read(int index) = 0;

  // The card that CUDA calls `index` in this process: with CUDA_VISIBLE_DEVICES not all are seen.
  absl::StatusOr<Card> ReadVisible(int index);
};

// Less is what a driver and a display may hold of a card that nobody computes on.
inline constexpr int64_t kForeignBytesMin = int64_t{512} << 20;

// Why nothing may be started on a card that no process of ours is on; empty: it is free.
// "process 4711 holds 1.2 GB of it, and 2 more"; "3.4 GB of it are in use".
std::string DirtyReason(const Card& card);

}  // namespace vitscale

#endif  // WORKER_CARD_NVML_H_
