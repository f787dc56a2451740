// Every field of every struct survives the wire, and bad bytes are refused without harm.
//
// "Every field" is checked against the protocol itself: a message is filled through reflection,
// every field of it and of its sub-messages with a value of its own, decoded into a struct and
// encoded again. A field that a struct or the codec forgets is missing then.

#include "worker/link/codec.h"

#include <random>
#include <string>

#include "google/protobuf/stubs/logging.h"
#include "google/protobuf/util/message_differencer.h"
#include "tests/status_matchers.h"
#include "worker/link/codec_messages.h"

namespace vitscale::link {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using testing::HasSubstr;

// Fills every field with the next value of a counter; of a oneof the `choice`-th field (modulo its
// size).
class Filler {
 public:
  explicit Filler(int choice) : choice_(choice) {}

  void Fill(Message* message) {
    const auto* descriptor = message->GetDescriptor();
    if (descriptor->full_name() == "google.protobuf.Timestamp") {
      const Reflection* reflection = message->GetReflection();
      reflection->SetInt64(message, descriptor->FindFieldByName("seconds"),
                           1'700'000'000 + ++next_);
      reflection->SetInt32(message, descriptor->FindFieldByName("nanos"), ++next_);
      return;
    }
    for (int i = 0; i < descriptor->field_count(); ++i) {
      const FieldDescriptor* field = descriptor->field(i);
      if (Skipped(*field)) continue;
      if (field->is_map()) {
        FillMap(message, field);
      } else if (field->is_repeated()) {
        for (int k = 0; k < 2; ++k) Add(message, field);
      } else {
        Set(message, field);
      }
    }
  }

 private:
  bool Skipped(const FieldDescriptor& field) const {
    // The coordinator's part of an event: a trainer cannot know it.
    if (field.containing_type()->name() == "Event") {
      const std::string& name = field.name();
      if (name == "sequence" || name == "actor" || name == "from" || name == "to") return true;
    }
    const auto* oneof = field.real_containing_oneof();
    return oneof != nullptr && oneof->field(choice_ % oneof->field_count()) != &field;
  }

  // Every map of these messages is of strings to strings or numbers.
  void FillMap(Message* message, const FieldDescriptor* field) {
    for (int k = 0; k < 2; ++k) {
      Message* entry = message->GetReflection()->AddMessage(message, field);
      const auto* type = entry->GetDescriptor();
      const Reflection* reflection = entry->GetReflection();
      if (type->map_value()->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
        reflection->SetDouble(entry, type->map_value(), ++next_);
      } else if (type->map_value()->cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
        reflection->SetInt64(entry, type->map_value(), (int64_t{1} << 40) + ++next_);
      } else {
        reflection->SetString(entry, type->map_value(), Text());
      }
      reflection->SetString(entry, type->map_key(), Text());
    }
  }

  std::string Text() { return "text" + std::to_string(++next_); }

  void Set(Message* m, const FieldDescriptor* f) {
    const Reflection* r = m->GetReflection();
    switch (f->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return r->SetInt32(m, f, ++next_);
      case FieldDescriptor::CPPTYPE_INT64:
        return r->SetInt64(m, f, (int64_t{1} << 40) + ++next_);
      case FieldDescriptor::CPPTYPE_UINT32:
        return r->SetUInt32(m, f, ++next_);
      case FieldDescriptor::CPPTYPE_UINT64:
        return r->SetUInt64(m, f, (uint64_t{1} << 63) + ++next_);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return r->SetDouble(m, f, ++next_ + 0.5);
      case FieldDescriptor::CPPTYPE_FLOAT:
        return r->SetFloat(m, f, ++next_);
      case FieldDescriptor::CPPTYPE_BOOL:
        return r->SetBool(m, f, true);
      case FieldDescriptor::CPPTYPE_ENUM:
        return r->SetEnumValue(m, f,
                               f->enum_type()->value(f->enum_type()->value_count() - 1)->number());
      case FieldDescriptor::CPPTYPE_STRING:
        return r->SetString(m, f, Text());
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Fill(r->MutableMessage(m, f));
    }
  }

  void Add(Message* m, const FieldDescriptor* f) {
    const Reflection* r = m->GetReflection();
    switch (f->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return r->AddInt32(m, f, ++next_);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return r->AddDouble(m, f, ++next_ + 0.5);
      case FieldDescriptor::CPPTYPE_STRING:
        return r->AddString(m, f, Text());
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Fill(r->AddMessage(m, f));
      default:
        FAIL() << "no value for repeated " << f->full_name();
    }
  }

  const int choice_;
  int next_ = 0;
};

template <typename Proto>
void ExpectAllFieldsSurvive(int choice) {
  Proto sent;
  Filler(choice).Fill(&sent);
  Proto received;
  ToProto(FromProto(sent), &received);
  google::protobuf::util::MessageDifferencer differencer;
  std::string difference;
  differencer.ReportDifferencesToString(&difference);
  EXPECT_TRUE(differencer.Compare(sent, received)) << difference;
}

TEST(CodecTest, EveryFieldOfAnOrderSurvives) {
  for (int choice = 0; choice < 3; ++choice) ExpectAllFieldsSurvive<v1::TrainerOrder>(choice);
}

TEST(CodecTest, EveryFieldOfAReportSurvivesForEveryKindOfRecord) {
  for (int choice = 0; choice < 6; ++choice) ExpectAllFieldsSurvive<v1::TrainerReport>(choice);
}

TEST(CodecTest, TimesSurviveToTheNanosecondAlsoBeforeTheEpoch) {
  for (absl::Time time : {absl::UnixEpoch(), absl::FromUnixNanos(1'700'000'000'123'456'789),
                          absl::FromUnixNanos(-1), absl::FromUnixNanos(-2'000'000'000)}) {
    SpooledRecord record;
    record.record = LogLine{.time = time, .text = "x"};
    VITSCALE_ASSERT_OK_AND_ASSIGN(const SpooledRecord read, DecodeRecord(EncodeRecord(record)));
    EXPECT_EQ(read, record);
  }
}

TEST(CodecTest, EqualStatesHaveEqualSpecBytesWhateverTheOrderOfTheirLabels) {
  v1::DesiredState first, second;
  for (int i = 0; i < 20; ++i) {
    (*first.mutable_spec()->mutable_labels())["k" + std::to_string(i)] = "v";
    (*second.mutable_spec()->mutable_labels())["k" + std::to_string(19 - i)] = "v";
  }
  EXPECT_EQ(FromProto(first), FromProto(second));
}

TEST(CodecTest, AnAbsentMessageStaysAbsent) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const TrainerOrder order, DecodeOrder(EncodeOrder({})));
  EXPECT_EQ(order, TrainerOrder{});
  EXPECT_FALSE(order.desired.has_value());
}

TEST(CodecTest, ANumberOfANewerProtocolBecomesUnspecified) {
  v1::DesiredState state;
  state.set_stage(static_cast<v1::Stage>(77));
  EXPECT_EQ(FromProto(state).stage, Stage::kUnspecified);
}

TEST(CodecTest, NamesTheMessageThatIsNotWellFormed) {
  EXPECT_THAT(DecodeOrder("\x0a\xff"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("TrainerOrder of 2 bytes")));
}

TEST(CodecTest, NeverCrashesOnTruncatedFlippedOrRandomBytes) {
  // Protobuf prints a line for each string that is no UTF-8; there are thousands here.
  google::protobuf::LogSilencer silence;
  v1::TrainerReport full;
  Filler(0).Fill(&full);
  const std::string bytes = full.SerializeAsString();
  for (size_t cut = 0; cut < bytes.size(); ++cut) (void)DecodeReport(bytes.substr(0, cut));
  std::mt19937 random(11);
  for (int round = 0; round < 5000; ++round) {
    std::string bad = bytes;
    for (int flip = 0; flip < 3; ++flip) bad[random() % bad.size()] ^= 1 << (random() % 8);
    (void)DecodeReport(bad);
    (void)DecodeOrder(bad);
    (void)DecodeRecord(bad);
  }
}

TEST(DescribeExitTest, SaysWhyInWords) {
  EXPECT_EQ(DescribeExit(75), "preempted, checkpoint durable (exit code 75)");
  EXPECT_EQ(DescribeExit(137), "killed by SIGKILL (137)");
  EXPECT_EQ(DescribeExit(139), "killed by SIGSEGV (139)");
  EXPECT_EQ(DescribeExit(3), "exit code 3");
}

}  // namespace
}  // namespace vitscale::link
