#include "proto/spec/defaults.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "proto/spec/preprocess.h"
#include "proto/spec/units.h"

namespace vitscale {
namespace {

constexpr int32_t kEvaluateAtOnce = 64;  // images per worker

class Filler {
 public:
  explicit Filler(const Places* places) : places_(places) {}

  // An enum of value 0 takes `value`. (A user cannot write the value 0.)
  template <typename Message, typename Enum>
  void Word(Message* message, Enum (Message::*get)() const, void (Message::*set)(Enum),
            Enum value) {
    if ((message->*get)() == 0) (message->*set)(value);
  }
  template <typename Message>
  void Int(Message* message, const std::string& path, int32_t (Message::*get)() const,
           void (Message::*set)(int32_t), int32_t value) {
    if ((message->*get)() == 0 && !Given(path)) (message->*set)(value);
  }
  void Text(std::string* text, const std::string& path, const std::string& value) {
    if (text->empty() && !Given(path)) *text = value;
  }
  bool Given(const std::string& path) const {
    return places_ != nullptr && places_->find(path) != places_->end();
  }

 private:
  const Places* const places_;
};

void FillModel(const Filler& filler, v1::Model* m) {
  Filler f = filler;
  f.Int(m, "model.image_size", &v1::Model::image_size, &v1::Model::set_image_size, 224);
  f.Int(m, "model.channels", &v1::Model::channels, &v1::Model::set_channels, 3);
  f.Word(m, &v1::Model::pool, &v1::Model::set_pool, v1::POOL_MAP);
  f.Word(m, &v1::Model::loss, &v1::Model::set_loss, v1::LOSS_SIGMOID);
  f.Word(m, &v1::Model::position_embedding, &v1::Model::set_position_embedding,
         v1::POSITION_EMBEDDING_LEARNED);
  f.Word(m, &v1::Model::residual, &v1::Model::set_residual, v1::RESIDUAL_F32);
}

void FillOptimizer(v1::Optimizer* o) {
  if (o->name() == v1::OPTIMIZER_NAME_UNSPECIFIED) o->set_name(v1::OPTIMIZER_NAME_ADAFACTOR);
  if (!o->has_beta1()) o->set_beta1(0.9);
  if (!o->has_beta2_cap()) o->set_beta2_cap(0.999);
  if (!o->has_beta2()) o->set_beta2(0.999);
  if (!o->has_clip_norm()) o->set_clip_norm(1.0);
  v1::WeightDecay* decay = o->mutable_weight_decay();
  if (!decay->has_body()) decay->set_body(0.03);
  if (!decay->has_head()) decay->set_head(3.0);
}

void FillSchedule(const Filler& filler, v1::Schedule* s) {
  Filler f = filler;
  f.Word(s, &v1::Schedule::name, &v1::Schedule::set_name, v1::SCHEDULE_NAME_RSQRT);
  f.Text(s->mutable_warmup(), "schedule.warmup", "0 steps");
  f.Text(s->mutable_timescale(), "schedule.timescale", "10000 steps");
  f.Text(s->mutable_cooldown(), "schedule.cooldown", "0 steps");
  f.Text(s->mutable_shift(), "schedule.shift", "0 steps");
}

void FillSource(v1::DataSource* source) {
  if (source->label_kind() == v1::LABEL_KIND_UNSPECIFIED) {
    source->set_label_kind(v1::LABEL_KIND_CLASS_ID);
  }
}

// As in big_vision configs/common_fewshot.py.
void FillFewShot(const Filler& filler, const std::string& path, v1::Eval* eval) {
  Filler f = filler;
  if (eval->has_support()) FillSource(eval->mutable_support());
  if (eval->shots().empty() && !f.Given(path + ".shots")) {
    for (const int shots : {1, 5, 10, 25}) eval->add_shots(shots);
  }
  if (eval->l2().empty() && !f.Given(path + ".l2")) eval->add_l2(1024);
  f.Int(eval, path + ".seeds", &v1::Eval::seeds, &v1::Eval::set_seeds, 3);
}

void FillEval(const Filler& filler, const std::string& path, const std::string& train_preprocess,
              v1::Eval* eval) {
  Filler f = filler;
  f.Word(eval, &v1::Eval::kind, &v1::Eval::set_kind, v1::EVAL_KIND_CLASSIFY);
  if (eval->has_data()) FillSource(eval->mutable_data());
  if (eval->kind() == v1::EVAL_KIND_FEWSHOT) FillFewShot(f, path, eval);
  if (const auto ops = ParsePreprocessOps(train_preprocess); ops.ok()) {
    f.Text(eval->mutable_preprocess(), absl::StrCat(path, ".preprocess"),
           FormatPreprocess(EvaluationOps(*ops, eval->kind() == v1::EVAL_KIND_FEWSHOT)));
  }
}

// An evaluation trains nothing: what says how is left out, so that a training job's file does as
// well. The batch only says how many images a worker takes at once.
void LeaveOutTraining(const Filler& filler, v1::JobSpec* spec) {
  Filler f = filler;
  spec->mutable_data()->clear_train();
  spec->clear_optimizer();
  spec->clear_schedule();
  for (v1::Eval& eval : *spec->mutable_evals()) eval.clear_every();
  v1::Batch* batch = spec->mutable_batch();
  const int32_t workers = std::clamp(spec->resources().workers().max(), 1, 1024);
  const int32_t each = batch->micro() > 0 ? std::min(batch->micro(), 1024) : kEvaluateAtOnce;
  f.Int(batch, "batch.global", &v1::Batch::global, &v1::Batch::set_global, each * workers);
}

// In the one form; images become steps where the batch is known.
void NormaliseLength(int64_t batch_global, std::string* text) {
  const auto length = ParseLength(*text);
  if (!length.ok()) return;
  if (length->unit != LengthUnit::kImages || batch_global <= 0) {
    *text = FormatLength(*length);
    return;
  }
  const auto steps = LengthInSteps(*length, batch_global, 0);
  VITSCALE_CHECK(steps.ok()) << steps.status().message();
  *text = FormatLength(Length::Steps(*steps));
}

void NormaliseOps(std::string* text) {
  if (auto ops = ParsePreprocessOps(*text); ops.ok()) *text = FormatPreprocess(CanonicalOps(*ops));
}

}  // namespace

void FillDefaults(const Places* places, v1::JobSpec* spec) {
  Filler f(places);
  f.Text(spec->mutable_name(), "name", "job");
  v1::Resources* resources = spec->mutable_resources();
  v1::WorkerRange* workers = resources->mutable_workers();
  f.Int(workers, "resources.workers.min", &v1::WorkerRange::min, &v1::WorkerRange::set_min, 1);
  f.Int(workers, "resources.workers.max", &v1::WorkerRange::max, &v1::WorkerRange::set_max,
        workers->min());
  f.Word(resources, &v1::Resources::device, &v1::Resources::set_device, v1::DEVICE_ANY);
  f.Word(spec, &v1::JobSpec::precision, &v1::JobSpec::set_precision, v1::PRECISION_AUTO);
  FillModel(f, spec->mutable_model());
  v1::Data* data = spec->mutable_data();
  if (data->has_train()) FillSource(data->mutable_train());
  f.Text(data->mutable_preprocess(), "data.preprocess", "value_range(-1,1)");
  if (spec->kind() == v1::JOB_KIND_EVALUATE) {
    LeaveOutTraining(f, spec);
  } else {
    f.Word(spec, &v1::JobSpec::kind, &v1::JobSpec::set_kind, v1::JOB_KIND_PRETRAIN);
    FillOptimizer(spec->mutable_optimizer());
    FillSchedule(f, spec->mutable_schedule());
    f.Word(spec, &v1::JobSpec::recompute, &v1::JobSpec::set_recompute, v1::RECOMPUTE_AUTO);
  }
  for (int i = 0; i < spec->evals_size(); ++i) {
    FillEval(f, absl::StrCat("evals[", i, "]"), data->preprocess(), spec->mutable_evals(i));
  }
  v1::Checkpoint* checkpoint = spec->mutable_checkpoint();
  f.Text(checkpoint->mutable_dir(), "checkpoint.dir", "checkpoints");
  f.Text(checkpoint->mutable_every(), "checkpoint.every", "1000 steps");
  f.Int(checkpoint->mutable_keep(), "checkpoint.keep.last", &v1::Keep::last, &v1::Keep::set_last,
        3);
  v1::OnDivergence* divergence = spec->mutable_on_divergence();
  f.Word(divergence, &v1::OnDivergence::policy, &v1::OnDivergence::set_policy,
         v1::DIVERGENCE_POLICY_FAIL);
  f.Int(divergence, "on_divergence.max", &v1::OnDivergence::max, &v1::OnDivergence::set_max, 3);
  f.Text(spec->mutable_grace(), "grace", "120s");
}

void NormaliseText(v1::JobSpec* spec) {
  const int64_t batch = spec->batch().global();
  if (spec->has_schedule()) {
    v1::Schedule* schedule = spec->mutable_schedule();
    for (std::string* text :
         {schedule->mutable_warmup(), schedule->mutable_timescale(), schedule->mutable_cooldown(),
          schedule->mutable_total(), schedule->mutable_shift()}) {
      NormaliseLength(batch, text);
    }
  }
  NormaliseLength(batch, spec->mutable_checkpoint()->mutable_every());
  NormaliseLength(batch, spec->mutable_checkpoint()->mutable_keep()->mutable_every());
  NormaliseOps(spec->mutable_data()->mutable_preprocess());
  for (v1::Eval& eval : *spec->mutable_evals()) {
    NormaliseLength(batch, eval.mutable_every());
    NormaliseOps(eval.mutable_preprocess());
  }
  if (const auto grace = ParseDuration(spec->grace()); grace.ok()) {
    spec->set_grace(DurationText(*grace));
  }
}

}  // namespace vitscale
