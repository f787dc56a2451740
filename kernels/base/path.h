// Paths of jobs must lie below the roots that a worker was given.

#ifndef KERNELS_BASE_PATH_H_
#define KERNELS_BASE_PATH_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/files.h"

namespace vitscale {

// "a/b": exactly one slash between; `b` alone if `a` is empty.
std::string JoinPath(absl::string_view a, absl::string_view b);
// The part before the last slash ("/" for "/x", "." for "x"), and the part after it.
std::string DirectoryName(absl::string_view path);
std::string BaseName(absl::string_view path);

enum class MustExist { kNo, kYes };

// The real path (symlinks resolved) of `path`, which is absolute or relative to a root; relative ones are tried
// under each root in turn, the first that exists wins. With kNo the longest existing part is resolved and the
// rest appended; a relative path that exists nowhere goes below the first root.
// Errors: INVALID_ARGUMENT for an empty path, a ".." or a NUL; PERMISSION_DENIED when it lies (after resolution)
// below no root; NOT_FOUND when it must exist and does not, or a root is missing. The roots are named.
absl::StatusOr<std::string> ResolveBelow(FileSystem& fs, const std::vector<std::string>& roots,
                                         const std::string& path, MustExist must_exist);

}  // namespace vitscale

#endif  // KERNELS_BASE_PATH_H_
