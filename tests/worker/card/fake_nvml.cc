// NVIDIA's management library as far as it is used, for tests. Every call reads the file that
// FAKE_NVML names, so that a test may change what is so while a program runs:
//
//   count 2                                 cards
//   driver 580.82.07
//   card 0 name NVIDIA H100 80GB HBM3       and uuid, capability "9 0", mig 1; \n is a line's end
//   card 0 memory TOTAL RESERVED FREE USED  bytes
//   card 0 process PID BYTES                any number of lines
//   error FUNCTION CODE                     that function fails
//   unterminated                            texts fill their buffers, and nothing ends them
//   claim N                                 N processes, whatever the list says
//   says TEXT                               what every error is called
//   driver_load N                           all but nvmlInit_v2 fails for who began in another load
//
// Nothing is checked: what cannot be is what tests want.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Process {
  unsigned int pid;
  unsigned long long used;
};
struct FakeCard {
  std::string name = "NVIDIA Fake", uuid = "GPU-fake";
  int major = 9, minor = 0;
  unsigned int mig = 0;
  unsigned long long total = 0, reserved = 0, free = 0, used = 0;
  std::vector<Process> processes;
};
int begun_in = 0;  // the load of the driver that nvmlInit_v2 found

std::string WithLineEnds(std::string text) {
  for (size_t at; (at = text.find("\\n")) != std::string::npos;) text.replace(at, 2, "\n");
  return text;
}

struct Scenario {
  unsigned int count = 0, claim = 0;
  bool claims = false, unterminated = false;
  std::string driver = "580.82.07", says;
  int driver_load = 0;
  std::map<std::string, int> errors;
  std::map<unsigned int, FakeCard> cards;

  int Error(const std::string& function) const {
    if (driver_load != begun_in && function != "nvmlInit_v2") return 15;
    const auto found = errors.find(function);
    return found == errors.end() ? 0 : found->second;
  }
};

void ReadCard(std::istringstream& line, Scenario& scenario) {
  unsigned int index = 0;
  std::string what;
  line >> index >> what >> std::ws;
  FakeCard& card = scenario.cards[index];
  if (what == "name") {
    std::getline(line, card.name);
    card.name = WithLineEnds(card.name);
  }
  if (what == "mig") line >> card.mig;
  if (what == "uuid") std::getline(line, card.uuid);
  if (what == "capability") line >> card.major >> card.minor;
  if (what == "memory") line >> card.total >> card.reserved >> card.free >> card.used;
  if (what == "process") {
    Process process{};
    line >> process.pid >> process.used;
    card.processes.push_back(process);
  }
}

Scenario Read() {
  Scenario scenario;
  const char* path = std::getenv("FAKE_NVML");
  std::ifstream file(path == nullptr ? "" : path);
  for (std::string text; std::getline(file, text);) {
    std::istringstream line(text);
    std::string word;
    line >> word;
    if (word == "count") line >> scenario.count;
    if (word == "driver") line >> scenario.driver;
    if (word == "driver_load") line >> scenario.driver_load;
    if (word == "says") {
      std::getline(line >> std::ws, scenario.says);
      scenario.says = WithLineEnds(scenario.says);
    }
    if (word == "card") ReadCard(line, scenario);
    if (word == "unterminated") scenario.unterminated = true;
    if (word == "claim") scenario.claims = static_cast<bool>(line >> scenario.claim);
    if (word == "error") {
      std::string function;
      line >> function;
      line >> scenario.errors[function];
    }
  }
  return scenario;
}

int Give(const std::string& function, const std::string& text, char* to, unsigned int bytes) {
  const Scenario scenario = Read();
  if (scenario.unterminated) {
    std::memset(to, 'x', bytes);
  } else {
    std::strncpy(to, text.c_str(), bytes);
  }
  return scenario.Error(function);
}

// A handle is the card's number plus one.
FakeCard CardOf(void* device) {
  return Read().cards[static_cast<unsigned int>(reinterpret_cast<uintptr_t>(device)) - 1];
}

}  // namespace

extern "C" {

struct nvmlMemory {
  unsigned long long total, free, used;
};
struct nvmlMemory_v2 {
  unsigned int version;
  unsigned long long total, reserved, free, used;
};
struct nvmlProcessInfo {
  unsigned int pid;
  unsigned long long usedGpuMemory;
  unsigned int gpuInstanceId, computeInstanceId;
};

int nvmlInit_v2() {
  const Scenario scenario = Read();
  begun_in = scenario.driver_load;
  return scenario.Error("nvmlInit_v2");
}
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int code) {
  static std::string says;
  says = Read().says;
  if (!says.empty()) return says.c_str();
  return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : nullptr;
}
int nvmlSystemGetDriverVersion(char* to, unsigned int bytes) {
  return Give("nvmlSystemGetDriverVersion", Read().driver, to, bytes);
}
int nvmlDeviceGetCount_v2(unsigned int* count) {
  *count = Read().count;
  return Read().Error("nvmlDeviceGetCount_v2");
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void** device) {
  *device = reinterpret_cast<void*>(static_cast<uintptr_t>(index) + 1);
  return Read().Error("nvmlDeviceGetHandleByIndex_v2");
}
int nvmlDeviceGetName(void* device, char* to, unsigned int bytes) {
  return Give("nvmlDeviceGetName", CardOf(device).name, to, bytes);
}
int nvmlDeviceGetUUID(void* device, char* to, unsigned int bytes) {
  return Give("nvmlDeviceGetUUID", CardOf(device).uuid, to, bytes);
}
int nvmlDeviceGetMemoryInfo(void* device, nvmlMemory* memory) {
  const FakeCard card = CardOf(device);
  *memory = {card.total, card.free, card.used + card.reserved};
  return Read().Error("nvmlDeviceGetMemoryInfo");
}
int nvmlDeviceGetMemoryInfo_v2(void* device, nvmlMemory_v2* memory) {
  if (memory->version != (sizeof(nvmlMemory_v2) | (2u << 24)))
    return 25;  // argument version mismatch
  const FakeCard card = CardOf(device);
  *memory = {memory->version, card.total, card.reserved, card.free, card.used};
  return Read().Error("nvmlDeviceGetMemoryInfo_v2");
}
int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
  const FakeCard card = CardOf(device);
  *major = card.major;
  *minor = card.minor;
  return Read().Error("nvmlDeviceGetCudaComputeCapability");
}
int nvmlDeviceGetMigMode(void* device, unsigned int* current, unsigned int* pending) {
  *current = *pending = CardOf(device).mig;
  return Read().Error("nvmlDeviceGetMigMode");
}
int nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned int* count,
                                            nvmlProcessInfo* infos) {
  const Scenario scenario = Read();
  const std::vector<Process> processes = CardOf(device).processes;
  const unsigned int room = *count;
  *count = scenario.claims ? scenario.claim : static_cast<unsigned int>(processes.size());
  if (const int error = scenario.Error("nvmlDeviceGetComputeRunningProcesses_v3")) return error;
  if (processes.size() > room) return 7;  // insufficient size
  for (size_t i = 0; i < processes.size(); ++i)
    infos[i] = {processes[i].pid, processes[i].used, 0, 0};
  return 0;
}

}  // extern "C"
