// Has the entry of a plugin, and a tag of some other build.

namespace {
struct Api {
  const char* tag;
  void* create_backend;
};
constexpr Api kApi{"revision of-old", nullptr};
}  // namespace

extern "C" const void* vitscale_plugin() { return &kApi; }
