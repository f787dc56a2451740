#include "kernels/cuda/runtime/opened_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace vitscale::cuda {

std::string VersionText(int64_t code) {
  return absl::StrCat(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

absl::StatusOr<OpenedLibrary> OpenedLibrary::Open(std::string name, std::string file,
                                                  int64_t least) {
  void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    return absl::FailedPreconditionError(absl::StrCat(name, " cannot be opened: ", dlerror()));
  return OpenedLibrary(std::move(name), std::move(file), least, handle);
}

void* OpenedLibrary::Address(const char* symbol) const { return dlsym(handle_, symbol); }

absl::Status OpenedLibrary::Missing(const char* symbol) const {
  return absl::FailedPreconditionError(absl::StrCat(name_, ": ", file_, " has no ", symbol,
                                                    ", want ", name_, " ", VersionText(least_),
                                                    " or later"));
}

absl::Status CheckVersion(absl::string_view name, int64_t version, int64_t least) {
  if (version >= least) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(name, " is ", VersionText(version), ", want ", VersionText(least), " or later"));
}

}  // namespace vitscale::cuda
