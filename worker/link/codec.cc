#include "worker/link/codec.h"

#include "absl/strings/str_cat.h"
#include "worker/link/codec_messages.h"

namespace vitscale::link {
namespace {

template <typename Proto, typename Struct>
std::string Encode(const Struct& from) {
  Proto proto;
  ToProto(from, &proto);
  return proto.SerializeAsString();
}

template <typename Struct, typename Proto>
absl::StatusOr<Struct> Decode(absl::string_view bytes) {
  Proto proto;
  if (!proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InvalidArgumentError(absl::StrCat("message ", proto.GetTypeName(), " of ",
                                                   bytes.size(), " bytes: not well-formed"));
  }
  return FromProto(proto);
}

}  // namespace

std::string EncodeOrder(const TrainerOrder& order) { return Encode<v1::TrainerOrder>(order); }

absl::StatusOr<TrainerOrder> DecodeOrder(absl::string_view bytes) {
  return Decode<TrainerOrder, v1::TrainerOrder>(bytes);
}

std::string EncodeReport(const TrainerReport& report) { return Encode<v1::TrainerReport>(report); }

absl::StatusOr<TrainerReport> DecodeReport(absl::string_view bytes) {
  return Decode<TrainerReport, v1::TrainerReport>(bytes);
}

std::string EncodeRecord(const SpooledRecord& record) { return Encode<v1::SpooledRecord>(record); }

absl::StatusOr<SpooledRecord> DecodeRecord(absl::string_view bytes) {
  return Decode<SpooledRecord, v1::SpooledRecord>(bytes);
}

}  // namespace vitscale::link
