// VitBuilder: names to operands.

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/model/vit_builder.h"

namespace vitscale {
namespace {

// A kernel as the matmul sees it: attention's query, key and value [width, heads, head_dim] are
// [width, width], out [heads, head_dim, width] is [width, width], the patch kernel [patch, patch,
// channels, width] is [patch elements, width]; all of them lie so already.
TensorView AsMatrix(TensorView view, int64_t in) {
  view.shape = {in, view.elements() / in};
  return view;
}
TensorView AsVector(TensorView view) {
  view.shape = {view.elements()};
  return view;
}

bool IsHeadsKernel(
    const Parameter& p) {  // query, key, value: the input axis comes first, two output axes follow
  return p.shape.size() == 3 && !absl::StrContains(p.name, "/out/");
}
int64_t InputOf(const Parameter& p) {
  return IsHeadsKernel(p) ? p.shape.front() : p.elements() / p.shape.back();
}

}  // namespace

TensorView VitBuilder::New(absl::string_view name, DType dtype, int64_t rows, int64_t columns) {
  return activations_.New(absl::StrCat(name_prefix_, name), dtype, {rows, columns});
}
TensorView VitBuilder::Kept(absl::string_view name, DType dtype, Shape shape) {
  if (!keeps_) return {};
  return activations_.New(absl::StrCat(name_prefix_, name), dtype, std::move(shape));
}

const Parameter& VitBuilder::Find(const std::string& name) const {
  const Parameter* p = layout_.table.Find(name);
  VITSCALE_CHECK(p != nullptr) << "no parameter " << name;
  return *p;
}
TensorView VitBuilder::Weight(const std::string& name) const {
  return layout_.table.ParameterView(Find(name));
}
TensorView VitBuilder::Gradient(const std::string& name) const {
  return layout_.table.GradientView(Find(name));
}

WeightParts VitBuilder::Kernel(const std::string& name) const {
  return {AsMatrix(Weight(name), InputOf(Find(name)))};
}
WeightParts VitBuilder::Bias(const std::string& name) const { return {AsVector(Weight(name))}; }
WeightParts VitBuilder::KernelGradient(const std::string& name) const {
  return {AsMatrix(Gradient(name), InputOf(Find(name)))};
}
WeightParts VitBuilder::BiasGradient(const std::string& name) const {
  return {AsVector(Gradient(name))};
}

WeightParts VitBuilder::Heads(const std::string& at, std::initializer_list<const char*> which,
                              bool kernel, bool gradient) const {
  WeightParts parts;
  for (const char* one : which) {
    const std::string name = absl::StrCat(at, "/", one, kernel ? "/kernel" : "/bias");
    const TensorView view = gradient ? Gradient(name) : Weight(name);
    parts.push_back(kernel ? AsMatrix(view, width_) : AsVector(view));
  }
  return parts;
}

}  // namespace vitscale
