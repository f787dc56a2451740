#include "proto/spec/checkpoint_ref.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

constexpr size_t kJobMax = 63;

// `prefix` and at least `digits` digits.
bool TakeNumber(absl::string_view* text, absl::string_view prefix, size_t digits, int64_t* value) {
  if (!absl::ConsumePrefix(text, prefix)) return false;
  const auto end = std::find_if_not(text->begin(), text->end(), absl::ascii_isdigit);
  const size_t count = static_cast<size_t>(end - text->begin());
  const bool good = count >= digits && absl::SimpleAtoi(text->substr(0, count), value);
  text->remove_prefix(count);
  return good;
}

bool IsCheckpointName(absl::string_view text, int64_t* step) {
  int64_t ignored = 0;
  const bool good = TakeNumber(&text, "a", 4, &ignored) && TakeNumber(&text, ".g", 4, &ignored) &&
                    TakeNumber(&text, ".step_", 9, step);
  return good && (text.empty() || text == ".emergency");
}

bool IsJob(absl::string_view text) {
  return !text.empty() && text.size() <= kJobMax &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

}  // namespace

std::string CheckpointRef::id() const { return absl::StrCat(job, "/", name); }

std::string CheckpointRef::Text() const {
  if (name.empty()) return job;
  return dir.empty() ? id() : absl::StrCat(dir, dir.back() == '/' ? "" : "/", id());
}

absl::StatusOr<CheckpointRef> ParseCheckpointRef(absl::string_view text) {
  const auto bad = [text] {
    return absl::InvalidArgumentError(absl::StrCat(
        "was ", JsonQuote(text.substr(0, 200)),
        ", wanted a checkpoint folder such as \"checkpoints/3f2k9a1b7c0d/"
        "a0001.g0001.step_000001000\" below a checkpoint root, \"<job>/<checkpoint name>\", or a "
        "job"));
  };
  std::vector<absl::string_view> parts = absl::StrSplit(text, '/');
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool root = i == 0 && parts.size() > 3;  // "/…": below a root all the same
    if ((parts[i].empty() && !root) || parts[i] == "." || parts[i] == "..") return bad();
  }
  CheckpointRef ref;
  if (parts.size() > 1) {
    if (!IsCheckpointName(parts.back(), &ref.step)) return bad();
    ref.name = std::string(parts.back());
    parts.pop_back();
  }
  if (!IsJob(parts.back())) return bad();
  ref.job = std::string(parts.back());
  parts.pop_back();
  ref.dir = absl::StrJoin(parts, "/");
  return ref;
}

}  // namespace vitscale
