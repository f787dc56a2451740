// Rules of what evaluations ask for. See rules.h.

#include <set>

#include "absl/strings/str_cat.h"
#include "proto/spec/message_text.h"
#include "proto/spec/rules.h"

namespace vitscale {
namespace {

constexpr int kEvalsMax = 16;
constexpr size_t kNameMax = 63;
constexpr int kShotsMax = 10'000;
constexpr int kShotCountsMax = 16;
constexpr int kStrengthsMax = 64;
// Below it the strength drowns in the rounding of the largest eigenvalue.
constexpr double kStrengthMin = 1e-4, kStrengthMax = 1e12;
constexpr int kSeedsMax = 100;

bool CheckCount(const std::string& path, int count, int most, Checker* c) {
  if (count >= 1 && count <= most) return true;
  c->Fail(path, absl::StrCat("had ", count, " elements, wanted 1 to ", most));
  return false;
}

void CheckShots(const v1::Eval& eval, const std::string& path, Checker* c) {
  if (!CheckCount(path, eval.shots_size(), kShotCountsMax, c)) return;
  std::set<int> seen;
  for (int i = 0; i < eval.shots_size(); ++i) {
    const std::string at = absl::StrCat(path, "[", i, "]");
    if (c->Range(at, int64_t{eval.shots(i)}, 1, kShotsMax) && !seen.insert(eval.shots(i)).second) {
      c->Fail(at, absl::StrCat("was ", eval.shots(i), " again, wanted another number"));
    }
  }
}

void CheckStrengths(const v1::Eval& eval, const std::string& path, Checker* c) {
  if (!CheckCount(path, eval.l2_size(), kStrengthsMax, c)) return;
  std::set<double> seen;
  for (int i = 0; i < eval.l2_size(); ++i) {
    const std::string at = absl::StrCat(path, "[", i, "]");
    if (c->Range(at, eval.l2(i), kStrengthMin, kStrengthMax) && !seen.insert(eval.l2(i)).second) {
      c->Fail(at, absl::StrCat("was ", ShortestDouble(eval.l2(i)), " again, wanted another one"));
    }
  }
}

void CheckFewShot(const v1::Eval& eval, const std::string& path, Checker* c) {
  if (eval.has_support()) {
    CheckSource(eval.support(), path + ".support", c);
  } else {
    c->Fail(path + ".support", "is missing, wanted the images that the shots are drawn from");
  }
  CheckShots(eval, path + ".shots", c);
  CheckStrengths(eval, path + ".l2", c);
  c->Range(path + ".seeds", int64_t{eval.seeds()}, 1, kSeedsMax);
}

// What only a few-shot evaluation reads would be left out in silence.
void CheckNotFewShot(const v1::Eval& eval, const std::string& path, Checker* c) {
  for (const auto& [field, given] :
       {std::pair{"support", eval.has_support()}, std::pair{"shots", eval.shots_size() > 0},
        std::pair{"l2", eval.l2_size() > 0}, std::pair{"seeds", eval.seeds() != 0}}) {
    if (given) {
      c->Fail(absl::StrCat(path, ".", field), "goes with kind fewshot, and this one is classify");
    }
  }
}

}  // namespace

void CheckEvals(const v1::JobSpec& spec, Checker* c) {
  if (spec.evals_size() > kEvalsMax) {
    c->Fail("evals",
            absl::StrCat("had ", spec.evals_size(), " elements, wanted at most ", kEvalsMax));
    return;
  }
  std::set<std::string> names;
  for (int i = 0; i < spec.evals_size(); ++i) {
    const v1::Eval& eval = spec.evals(i);
    const std::string path = absl::StrCat("evals[", i, "]");
    if (c->Word(path + ".name", eval.name(), "a-z0-9_-", kNameMax) &&
        !names.insert(eval.name()).second) {
      c->Fail(path + ".name",
              absl::StrCat("was \"", eval.name(), "\" again, wanted a name of its own"));
    }
    CheckSource(eval.data(), path + ".data", c);
    CheckEvalPreprocess(spec, eval, path + ".preprocess", c);
    if (!eval.every().empty()) c->LengthOf(path + ".every", eval.every(), true);
    eval.kind() == v1::EVAL_KIND_FEWSHOT ? CheckFewShot(eval, path, c)
                                         : CheckNotFewShot(eval, path, c);
  }
}

}  // namespace vitscale
