// Structs of worker/link/messages.h to protocol bytes and back. The only place of the engine
// (beside worker/config) that sees protobuf messages; this header shows none of them.
//
// Decoding never crashes on bad bytes: INVALID_ARGUMENT names the message. Unknown enum numbers
// become kUnspecified, unknown fields are dropped. JobSpec passes through as bytes, in
// deterministic serialisation.

#ifndef WORKER_LINK_CODEC_H_
#define WORKER_LINK_CODEC_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/link/messages.h"

namespace vitscale::link {

std::string EncodeOrder(const TrainerOrder& order);
absl::StatusOr<TrainerOrder> DecodeOrder(absl::string_view bytes);

std::string EncodeReport(const TrainerReport& report);
absl::StatusOr<TrainerReport> DecodeReport(absl::string_view bytes);

std::string EncodeRecord(const SpooledRecord& record);
absl::StatusOr<SpooledRecord> DecodeRecord(absl::string_view bytes);

}  // namespace vitscale::link

#endif  // WORKER_LINK_CODEC_H_
