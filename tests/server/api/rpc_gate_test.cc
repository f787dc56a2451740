#include "server/api/rpc_gate.h"

#include <set>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/status_matchers.h"
#include "vitscale/v1/control_service.pb.h"
#include "vitscale/v1/worker_service.pb.h"

namespace vitscale {
namespace {

TEST(MethodTableTest, HasOneRowForEveryMethodOfBothServices) {
  std::set<std::string> rows;
  for (const MethodRow& row : MethodTable())
    EXPECT_TRUE(rows.insert(std::string(row.service) + "/" + row.method).second);
  std::set<std::string> methods;
  for (const auto* file :
       {v1::SubmitJobRequest::descriptor()->file(), v1::RegisterRequest::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      const auto* service = file->service(i);
      for (int j = 0; j < service->method_count(); ++j) {
        methods.insert(service->full_name() + "/" + service->method(j)->name());
      }
    }
  }
  EXPECT_EQ(rows, methods);
}

TEST(AdmitCallTest, RefusesACallWithoutADeadlineAndAMethodWithoutARow) {
  const absl::Time soon = absl::Now() + absl::Seconds(1);
  EXPECT_THAT(AdmitCall("uid:1", "vitscale.v1.ControlService", "GetJob", soon), IsOk());
  EXPECT_THAT(AdmitCall("uid:1", "vitscale.v1.ControlService", "GetJob", absl::InfiniteFuture()),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("deadline")));
  EXPECT_THAT(AdmitCall("uid:1", "vitscale.v1.WorkerService", "Session", absl::InfiniteFuture()),
              IsOk());
  EXPECT_THAT(AdmitCall("uid:1", "vitscale.v1.ControlService", "DropTables", soon),
              StatusIs(absl::StatusCode::kUnimplemented));
}

TEST(PeerTableTest, KnowsWhoseConnectionADescriptorIs) {
  PeerTable peers;
  peers.Set(7, 1000);
  EXPECT_EQ(peers.PrincipalOf("fd:7"), "uid:1000");
  peers.Set(7, 1001);  // closed, and the number used again
  EXPECT_EQ(peers.PrincipalOf("fd:7"), "uid:1001");
  EXPECT_EQ(peers.PrincipalOf("fd:8"), "anonymous");
  EXPECT_EQ(peers.PrincipalOf("ipv4:127.0.0.1:5000"), "anonymous");
}

TEST(StatusDetailsTest, CarriesPayloadsAndAnErrorInfo) {
  absl::Status status = absl::InvalidArgumentError("bad");
  google::rpc::BadRequest bad;
  bad.add_field_violations()->set_field("batch.global");
  status.SetPayload("type.googleapis.com/google.rpc.BadRequest",
                    absl::Cord(bad.SerializeAsString()));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(StatusDetails(status)));
  EXPECT_EQ(details.code(), 3);
  ASSERT_EQ(details.details_size(), 2);
  google::rpc::BadRequest read;
  ASSERT_TRUE(details.details(0).UnpackTo(&read));
  EXPECT_EQ(read.field_violations(0).field(), "batch.global");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(1).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "vitscale");
  EXPECT_EQ(info.reason(), "INVALID_ARGUMENT");
}

}  // namespace
}  // namespace vitscale
