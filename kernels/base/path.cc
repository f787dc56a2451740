#include "kernels/base/path.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

absl::Status CheckSpelling(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("the path is empty");
  if (absl::StrContains(path, absl::string_view("\0", 1))) {
    return absl::InvalidArgumentError("the path holds a NUL character");
  }
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part == "..") {
      return absl::InvalidArgumentError(absl::StrCat("path '", path, "' holds \"..\""));
    }
  }
  return absl::OkStatus();
}

bool IsBelow(const std::string& path, const std::string& root) {
  return path == root || root == "/" || absl::StartsWith(path, absl::StrCat(root, "/"));
}

std::string RootList(const std::vector<std::string>& roots) {
  if (roots.empty()) return "(none given)";
  return absl::StrCat("'", absl::StrJoin(roots, "', '"), "'");
}

absl::StatusOr<std::vector<std::string>> RealRoots(FileSystem& fs,
                                                   const std::vector<std::string>& roots) {
  std::vector<std::string> real;
  for (const std::string& root : roots) {
    auto resolved = fs.RealPath(root);
    if (!resolved.ok()) return Annotate(resolved.status(), "root directory");
    real.push_back(*std::move(resolved));
  }
  return real;
}

// Real path of the longest part that exists, then the rest as written ("." and "//" dropped).
absl::StatusOr<std::string> ResolveExistingPart(FileSystem& fs, const std::string& path) {
  std::vector<std::string> parts = absl::StrSplit(path, '/', absl::SkipEmpty());
  for (size_t existing = parts.size();; --existing) {
    const std::string prefix =
        absl::StrCat("/", absl::StrJoin(parts.begin(), parts.begin() + existing, "/"));
    auto real = fs.RealPath(prefix);
    if (!real.ok() && (!absl::IsNotFound(real.status()) || existing == 0)) return real.status();
    if (!real.ok()) continue;
    std::string result = *std::move(real);
    for (size_t i = existing; i < parts.size(); ++i) {
      if (parts[i] != ".") result = JoinPath(result, parts[i]);
    }
    return result;
  }
}

}  // namespace

std::string JoinPath(absl::string_view a, absl::string_view b) {
  if (a.empty()) return std::string(b);
  while (absl::EndsWith(a, "/")) a.remove_suffix(1);
  while (absl::StartsWith(b, "/")) b.remove_prefix(1);
  return absl::StrCat(a, "/", b);
}

std::string DirectoryName(absl::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return ".";
  return slash == 0 ? "/" : std::string(path.substr(0, slash));
}

std::string BaseName(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos ? path : path.substr(slash + 1));
}

absl::StatusOr<std::string> ResolveBelow(FileSystem& fs, const std::vector<std::string>& roots,
                                         const std::string& path, MustExist must_exist) {
  VITSCALE_RETURN_IF_ERROR(CheckSpelling(path));
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> real_roots, RealRoots(fs, roots));
  std::vector<std::string> candidates;
  if (path[0] == '/') {
    candidates.push_back(path);
  } else {
    for (const std::string& root : real_roots) candidates.push_back(JoinPath(root, path));
  }
  std::string chosen;
  for (const std::string& candidate : candidates) {
    auto real = fs.RealPath(candidate);
    if (!real.ok() && !absl::IsNotFound(real.status())) return real.status();
    if (real.ok()) {
      chosen = *std::move(real);
      break;
    }
  }
  const bool exists = !chosen.empty();
  if (!exists && !candidates.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(chosen, ResolveExistingPart(fs, candidates[0]));
  }
  for (const std::string& root : real_roots) {
    if (!IsBelow(chosen, root)) continue;
    if (exists || must_exist == MustExist::kNo) return chosen;
    return absl::NotFoundError(absl::StrCat("'", path, "' does not exist below ", RootList(roots)));
  }
  return absl::PermissionDeniedError(
      absl::StrCat("'", path, "' lies below none of the roots of this worker: ", RootList(roots),
                   "; they are given with --data-root and --checkpoint-root"));
}

}  // namespace vitscale
