// data: sources of images and what is done to them.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/spec/preprocess.h"
#include "proto/spec/rules.h"

namespace vitscale {
namespace {

constexpr int64_t kImagesMax = int64_t{1} << 40;

void CheckIdx(const v1::DataSource& source, const std::string& path, Checker* c) {
  for (const auto& [field, value] :
       {std::pair{"images", &source.images()}, {"labels", &source.labels()}}) {
    const std::string at = absl::StrCat(path, ".", field);
    if (value->empty()) {
      c->Fail(at, "is missing, wanted the path of an IDX file below a data root");
    } else {
      c->Path(at, *value);
    }
  }
  if (!source.path().empty())
    c->Fail(path + ".path", "does not go with format idx, which has images and labels");
}

void CheckFolder(const v1::DataSource& source, const std::string& path, Checker* c) {
  if (source.path().empty()) {
    c->Fail(
        path + ".path",
        "is missing, wanted the path of a folder below a data root, with a folder for each class");
  } else {
    c->Path(path + ".path", source.path());
  }
  for (const auto& [field, value] :
       {std::pair{"images", &source.images()}, {"labels", &source.labels()}}) {
    if (!value->empty())
      c->Fail(absl::StrCat(path, ".", field), "does not go with format folder, which has path");
  }
}

void CheckSynthetic(const v1::DataSource& source, const std::string& path, Checker* c) {
  c->Range(path + ".synthetic_images", source.synthetic_images(), 1, kImagesMax);
  for (const auto& [field, value] : {std::pair{"images", &source.images()},
                                     {"labels", &source.labels()},
                                     {"path", &source.path()}}) {
    if (!value->empty())
      c->Fail(absl::StrCat(path, ".", field), "does not go with format synthetic");
  }
}

}  // namespace

void CheckSource(const v1::DataSource& source, const std::string& path, Checker* c) {
  switch (source.format()) {
    case v1::DATA_FORMAT_UNSPECIFIED:
      c->Fail(path + ".format", "is missing, wanted idx, folder or synthetic");
      break;
    case v1::DATA_FORMAT_IDX:
      CheckIdx(source, path, c);
      break;
    case v1::DATA_FORMAT_SYNTHETIC:
      CheckSynthetic(source, path, c);
      break;
    case v1::DATA_FORMAT_FOLDER:
      CheckFolder(source, path, c);
      break;
    case v1::DATA_FORMAT_WEBDATASET:
      c->Reserve(path + ".format",
                 "webdataset is not read by this version, wanted idx, folder or synthetic");
      break;
    default:
      break;  // CheckGenerally has said it
  }
  c->Range(path + ".take", source.take(), 0, kImagesMax);
  if (source.label_kind() == v1::LABEL_KIND_SPARSE || source.label_kind() == v1::LABEL_KIND_DENSE) {
    c->Reserve(path + ".label_kind",
               "sparse and dense labels are not read by this version, wanted class_id");
  }
}

void CheckPreprocess(const std::string& field, const std::string& text, bool random_allowed,
                     const v1::DataSource& source, const v1::Model& model, Checker* c) {
  const size_t before = c->faults.size();
  c->Preprocess(field, text, random_allowed);
  const auto ops = ParsePreprocessOps(text);
  if (c->faults.size() > before || !ops.ok() || model.image_size() < 1) return;
  const bool any_size = source.format() == v1::DATA_FORMAT_FOLDER;
  if (const auto size = CheckFinalSize(*ops, any_size, model.image_size()); !size.ok()) {
    c->Fail(field, absl::StrCat("was \"", text, "\", which ", size.message()));
  }
}

void CheckEvalPreprocess(const v1::JobSpec& spec, const v1::Eval& eval, const std::string& field,
                         Checker* c) {
  const std::string& text = eval.preprocess();
  if (text.empty()) return;  // the training text does not parse
  const bool said = std::any_of(c->faults.begin(), c->faults.end(), [](const Fault& fault) {
    return fault.field == "data.preprocess";
  });
  const auto train = ParsePreprocessOps(spec.data().preprocess());
  const bool few_shot = eval.kind() == v1::EVAL_KIND_FEWSHOT;
  if (said && train.ok() && text == FormatPreprocess(EvaluationOps(*train, few_shot))) return;
  CheckPreprocess(field, text, /*random_allowed=*/false, eval.data(), spec.model(), c);
  if (few_shot && eval.support().format() != eval.data().format()) {
    CheckPreprocess(field, text, /*random_allowed=*/false, eval.support(), spec.model(), c);
  }
}

}  // namespace vitscale
