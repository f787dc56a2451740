#include "server/api/plan_devices.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

v1::Worker Worker(v1::Device kind, int64_t memory, const std::string& model = "") {
  v1::Worker worker;
  worker.set_state(v1::WORKER_STATE_IDLE);
  worker.mutable_device()->set_kind(kind);
  worker.mutable_device()->set_memory_bytes(memory);
  worker.mutable_device()->set_model(model);
  worker.mutable_device()->set_threads(3);
  worker.mutable_device()->set_bf16(kind == v1::DEVICE_CUDA);
  return worker;
}
v1::Worker Cpu(int64_t memory) { return Worker(v1::DEVICE_CPU, memory); }
v1::Worker Card(int64_t memory, const std::string& model = "H100") {
  return Worker(v1::DEVICE_CUDA, memory, model);
}

std::vector<int64_t> Memories(v1::Device wanted, int need, const std::vector<v1::Worker>& workers) {
  v1::JobSpec spec;
  spec.mutable_resources()->set_device(wanted);
  spec.mutable_resources()->mutable_workers()->set_min(need);
  spec.mutable_resources()->mutable_workers()->set_max(need);
  std::vector<int64_t> memories;
  for (const DeviceLimits& device : DevicesFor(spec, workers)) {
    memories.push_back(device.memory_bytes);
  }
  return memories;
}

TEST(DevicesForTest, OneOfAnyKindMayBeAnyOfThem) {
  const std::vector<v1::Worker> workers = {Cpu(1), Card(2), Cpu(3), Card(4, "A10")};
  EXPECT_THAT(Memories(v1::DEVICE_ANY, 1, workers), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Memories(v1::DEVICE_UNSPECIFIED, 1, workers), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Memories(v1::DEVICE_CPU, 1, workers), ElementsAre(1, 3));
  EXPECT_THAT(Memories(v1::DEVICE_CUDA, 1, workers), ElementsAre(2, 4));
  EXPECT_THAT(Memories(v1::DEVICE_CUDA, 1, {Cpu(1)}), IsEmpty());
  EXPECT_THAT(Memories(v1::DEVICE_ANY, 1, {}), IsEmpty());
}

TEST(DevicesForTest, AGangIsOfOneClassSoAClassThatIsTooSmallDoesNotCount) {
  const std::vector<v1::Worker> workers = {Cpu(1), Card(2), Card(3), Card(4, "A10")};
  EXPECT_THAT(Memories(v1::DEVICE_ANY, 2, workers), ElementsAre(2, 3)) << "two of one model";
  EXPECT_THAT(Memories(v1::DEVICE_ANY, 3, workers), ElementsAre(1, 2, 3, 4))
      << "no class is large enough yet: any may grow";
  EXPECT_THAT(Memories(v1::DEVICE_CPU, 2, workers), ElementsAre(1));
  v1::Worker other = Cpu(5);
  other.set_version("another");
  EXPECT_THAT(Memories(v1::DEVICE_ANY, 2, {Cpu(1), other, Card(2), Card(3)}), ElementsAre(2, 3));
}

TEST(DevicesForTest, AMachineThatIsGoneDoesNotDecideUnlessNobodyElseIsKnown) {
  v1::Worker lost = Cpu(1);
  lost.set_state(v1::WORKER_STATE_LOST);
  EXPECT_THAT(Memories(v1::DEVICE_ANY, 1, {lost, Card(2)}), ElementsAre(2));
  EXPECT_THAT(Memories(v1::DEVICE_CPU, 1, {lost, Card(2)}), ElementsAre(1));
  for (const v1::WorkerState state :
       {v1::WORKER_STATE_BUSY, v1::WORKER_STATE_RELEASING, v1::WORKER_STATE_UNREACHABLE,
        v1::WORKER_STATE_QUARANTINED, v1::WORKER_STATE_DRAINING, v1::WORKER_STATE_DIRTY}) {
    v1::Worker away = Cpu(1);
    away.set_state(state);
    EXPECT_THAT(Memories(v1::DEVICE_ANY, 1, {away, Card(2)}), ElementsAre(1, 2))
        << v1::WorkerState_Name(state) << ": it will be back";
  }
}

TEST(DevicesForTest, SaysKindModelMemoryThreadsAndBf16) {
  v1::JobSpec spec;
  const auto devices = DevicesFor(spec, {Card(80, "NVIDIA H100 80GB HBM3"), Cpu(16)});
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0].kind, DeviceKind::kCuda);
  EXPECT_EQ(devices[0].model, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(devices[0].memory_bytes, 80);
  EXPECT_EQ(devices[1].kind, DeviceKind::kCpu);
  EXPECT_TRUE(devices[0].bf16);
  EXPECT_EQ(devices[1].threads, 3);
  EXPECT_FALSE(devices[1].bf16);
}

// A worker of which only its place in a gang is known, after a store that lost its row.
TEST(DevicesForTest, AWorkerWithoutAKindIsNoDevice) {
  EXPECT_THAT(Memories(v1::DEVICE_ANY, 1, {Worker(v1::DEVICE_UNSPECIFIED, 1), Cpu(2)}),
              ElementsAre(2));
}

}  // namespace
}  // namespace vitscale
