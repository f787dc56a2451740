#include "proto/spec/rules.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/suggest.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

constexpr int kWorkersMax = 1024;
constexpr int kImageSizeMax = 2048;
constexpr int kPatchMax = 256;
constexpr int kHeadDimMax = 256;
constexpr int kLabelsMax = 32;
constexpr size_t kNameMax = 63;

void CheckWorkers(const v1::WorkerRange& workers, Checker* c) {
  const std::string path = "resources.workers";
  const bool min = c->Range(path + ".min", int64_t{workers.min()}, 1, kWorkersMax);
  const bool max = c->Range(path + ".max", int64_t{workers.max()}, 1, kWorkersMax);
  if (!min || !max || workers.min() == workers.max()) return;
  if (workers.max() < workers.min()) {
    c->Fail(path + ".max",
            absl::StrCat("was ", workers.max(), ", wanted at least min, which is ", workers.min()));
  } else {
    c->Reserve(path,
               absl::StrCat("min ", workers.min(), " and max ", workers.max(),
                            " differ; this version trains with a fixed number of workers, so give "
                            "both the same number"));
  }
}

void CheckBatch(const v1::JobSpec& spec, Checker* c) {
  const int64_t global = spec.batch().global(), micro = spec.batch().micro();
  if (!c->Range("batch.global", global, 1, 1 << 20) || !c->Range("batch.micro", micro, 0, global)) {
    return;
  }
  const int64_t workers = std::max(1, spec.resources().workers().max());
  if (micro > 0 && global % micro != 0) {
    c->Fail("batch.micro",
            absl::StrCat("was ", micro, ", wanted a divisor of batch.global, which is ", global));
  } else if (micro > 0 && global / micro < workers) {
    c->Fail("batch.micro", absl::StrCat("was ", micro, ", which gives ", global / micro,
                                        " micro-batches a step to ", workers,
                                        " workers, wanted at least one for each"));
  } else if (global < workers) {
    c->Fail("batch.global", absl::StrCat("was ", global, ", wanted at least one image for each of ",
                                         workers, " workers"));
  }
}

void CheckLabels(const v1::JobSpec& spec, Checker* c) {
  if (spec.labels_size() > kLabelsMax) {
    c->Fail("labels",
            absl::StrCat("had ", spec.labels_size(), " labels, wanted at most ", kLabelsMax));
    return;
  }
  for (const auto& [key, value] : spec.labels()) {
    const std::string path = absl::StrCat("labels.", key.substr(0, kNameMax));
    if (c->Word(path, key, "a-zA-Z0-9._/-", kNameMax) && value.size() > kNameMax) {
      c->Fail(path,
              absl::StrCat("was ", value.size(), " characters long, wanted at most ", kNameMax));
    }
  }
}

// Patch side of the model, 0 if it is not known.
int PatchOf(const v1::Model& model) {
  const std::vector<std::string> parts = absl::StrSplit(model.variant(), '/');
  int patch = 0;
  if (model.has_custom()) return model.custom().patch();
  return parts.size() == 2 && absl::SimpleAtoi(parts[1], &patch) ? patch : 0;
}

void CheckVariant(const std::string& variant, Checker* c) {
  const std::vector<std::string> parts = absl::StrSplit(variant, '/');
  int patch = 0;
  const auto& sizes = VariantSizes();
  const bool known = std::find(sizes.begin(), sizes.end(), parts[0]) != sizes.end();
  if (parts.size() == 2 && known && absl::SimpleAtoi(parts[1], &patch) && patch >= 1 &&
      patch <= kPatchMax) {
    return;
  }
  c->Fail("model.variant", absl::StrCat("was ", JsonQuote(variant.substr(0, 80)),
                                        ", wanted a size and a patch side such as \"S/16\"",
                                        known ? "" : DidYouMean(parts[0], sizes),
                                        "; `vitscale plan --variants` lists the sizes"));
}

void CheckShape(const v1::CustomShape& shape, bool sincos, Checker* c) {
  const std::string path = "model.custom";
  c->Range(path + ".patch", int64_t{shape.patch()}, 1, kPatchMax);
  c->Range(path + ".depth", int64_t{shape.depth()}, 1, 512);
  c->Range(path + ".mlp_width", int64_t{shape.mlp_width()}, 8, 65536);
  const bool width = c->Range(path + ".width", int64_t{shape.width()}, 8, 16384);
  const bool heads = c->Range(path + ".heads", int64_t{shape.heads()}, 1, 256);
  if (!width || !heads) return;
  if (shape.width() % shape.heads() != 0) {
    c->Fail(path + ".width",
            absl::StrCat("was ", shape.width(), ", wanted a multiple of heads, which is ",
                         shape.heads()));
  } else if (const int head_dim = shape.width() / shape.heads();
             head_dim % 8 != 0 || head_dim > kHeadDimMax) {
    c->Fail(path + ".heads",
            absl::StrCat("was ", shape.heads(), ", which gives a width per head of ", head_dim,
                         ", wanted a multiple of 8 up to ", kHeadDimMax));
  } else if (sincos && shape.width() % 4 != 0) {
    c->Fail(path + ".width",
            absl::StrCat("was ", shape.width(), ", wanted a multiple of 4 with sincos2d"));
  }
}

// Length comparisons: nullopt where units differ (epochs against steps).
std::optional<int64_t> Comparable(const Length& length, const Length& other, int64_t batch_global) {
  const bool epochs = length.unit == LengthUnit::kEpochs;
  if (epochs != (other.unit == LengthUnit::kEpochs)) return std::nullopt;
  if (epochs) return length.micros;
  const auto steps = LengthInSteps(length, std::max<int64_t>(1, batch_global), 0);
  return steps.ok() ? std::optional(*steps) : std::nullopt;
}

}  // namespace

const std::vector<std::string>& VariantSizes() {
  static const auto& sizes = *new std::vector<std::string>{
      "mu", "s", "Ti", "S", "M", "B", "L", "So400m", "H", "g", "g-opt", "G-opt", "G", "e"};
  return sizes;
}

void CheckHead(const v1::JobSpec& spec, Checker* c) {
  c->Word("name", spec.name(), "a-z0-9-", kNameMax);
  CheckLabels(spec, c);
  c->Range("priority", int64_t{spec.priority()}, -1000, 1000);
  CheckWorkers(spec.resources().workers(), c);
  CheckBatch(spec, c);
  const auto grace = ParseDuration(spec.grace());
  if (!grace.ok()) {
    c->Fail("grace", std::string(grace.status().message()));
  } else if (*grace < absl::Seconds(1) || *grace > absl::Hours(1)) {
    c->Fail("grace", absl::StrCat("was \"", spec.grace(), "\", wanted 1s to 1h"));
  }
}

void CheckModel(const v1::Model& model, Checker* c) {
  if (model.variant().empty() != model.has_custom()) {
    c->Fail("model", model.has_custom()
                         ? "has both variant and custom, wanted exactly one of them"
                         : "has neither variant nor custom, wanted exactly one of them");
  } else if (model.has_custom()) {
    CheckShape(model.custom(), model.position_embedding() == v1::POSITION_EMBEDDING_SINCOS2D, c);
  } else {
    CheckVariant(model.variant(), c);
  }
  const int patch = std::clamp(PatchOf(model), 1, kPatchMax);
  if (model.image_size() > 0 && model.image_size() < patch) {
    c->Fail("model.image_size", absl::StrCat("was ", model.image_size(),
                                             ", wanted at least the patch side, which is ", patch));
  }
  c->Range("model.image_size", int64_t{model.image_size()}, patch, kImageSizeMax);
  if (model.channels() != 1 && model.channels() != 3) {
    c->Fail("model.channels", absl::StrCat("was ", model.channels(), ", wanted 1 or 3"));
  }
  c->Range("model.classes", int64_t{model.classes()}, 1, 1'000'000);
  c->Range("model.head_bias", model.head_bias(), -100.0, 100.0);
  c->Range("model.representation_size", int64_t{model.representation_size()}, 0, 65536);
}

void CheckOptimizer(const v1::Optimizer& o, Checker* c) {
  const std::string path = "optimizer";
  if (o.lr() == 0) {
    c->Fail(path + ".lr", "is missing or 0, wanted a learning rate above 0");
  }
  c->Range(path + ".lr", o.lr(), 0, 100, /*low_open=*/true);
  c->Range(path + ".beta1", o.beta1(), 0, 1, false, /*high_open=*/true);
  c->Range(path + ".beta2_cap", o.beta2_cap(), 0, 1, false, true);
  c->Range(path + ".beta2", o.beta2(), 0, 1, false, true);
  c->Range(path + ".clip_norm", o.clip_norm(), 0, 1e9);
  c->Range(path + ".weight_decay.body", o.weight_decay().body(), 0, 1000);
  c->Range(path + ".weight_decay.head", o.weight_decay().head(), 0, 1000);
}

void CheckSchedule(const v1::Schedule& s, int64_t batch_global, Checker* c) {
  const std::string path = "schedule";
  if (s.total().empty()) {
    c->Fail(path + ".total",
            "is missing, wanted the length of the run such as \"10000 steps\" or \"90 epochs\"");
  }
  const auto total = c->LengthOf(path + ".total", s.total(), true);
  const auto warmup = c->LengthOf(path + ".warmup", s.warmup(), false);
  const auto cooldown = c->LengthOf(path + ".cooldown", s.cooldown(), false);
  c->LengthOf(path + ".timescale", s.timescale(), true);
  c->LengthOf(path + ".shift", s.shift(), false);
  if (!total || !warmup || !cooldown) return;
  const int64_t all = Comparable(*total, *total, batch_global).value_or(0);
  const int64_t up = Comparable(*warmup, *total, batch_global).value_or(0);
  const int64_t down = Comparable(*cooldown, *total, batch_global).value_or(0);
  if (up > all) {
    c->Fail(path + ".warmup",
            absl::StrCat("was \"", s.warmup(), "\", wanted at most the total, which is \"",
                         s.total(), "\""));
  } else if (up + down > all) {
    c->Fail(path + ".cooldown",
            absl::StrCat("was \"", s.cooldown(), "\", which with a warmup of \"", s.warmup(),
                         "\" is longer than the total of \"", s.total(), "\""));
  }
}

void CheckSaving(const v1::JobSpec& spec, Checker* c) {
  const v1::Checkpoint& checkpoint = spec.checkpoint();
  if (checkpoint.dir().empty()) {
    c->Fail("checkpoint.dir", "was empty, wanted a folder below a checkpoint root");
  }
  c->Path("checkpoint.dir", checkpoint.dir());
  c->LengthOf("checkpoint.every", checkpoint.every(), true);
  c->Range("checkpoint.keep.last", int64_t{checkpoint.keep().last()}, 1, 1000);
  if (!checkpoint.keep().every().empty()) {
    c->LengthOf("checkpoint.keep.every", checkpoint.keep().every(), true);
  }
  if (spec.on_divergence().policy() == v1::DIVERGENCE_POLICY_ROLLBACK) {
    c->Reserve("on_divergence.policy", "rollback is not done by this version, wanted fail or skip");
  }
  c->Range("on_divergence.max", int64_t{spec.on_divergence().max()}, 1, 1000);
}

}  // namespace vitscale
