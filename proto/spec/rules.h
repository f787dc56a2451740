// The rules of the job file, part by part. Internal to proto/spec.

#ifndef PROTO_SPEC_RULES_H_
#define PROTO_SPEC_RULES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "proto/spec/fault.h"
#include "proto/spec/units.h"
#include "vitscale/v1/job_spec.pb.h"

namespace vitscale {

// Collects faults; one per field.
class Checker {
 public:
  void Fail(const std::string& field, std::string text) { Add(field, std::move(text), false); }
  void Reserve(const std::string& field, std::string text) { Add(field, std::move(text), true); }

  // "was 7, wanted 1 to 5".
  bool Range(const std::string& field, int64_t value, int64_t low, int64_t high);
  // low and high inclusive unless said otherwise; NaN fails.
  bool Range(const std::string& field, double value, double low, double high, bool low_open = false,
             bool high_open = false);
  // Characters of `allowed` (as in "a-z0-9-"), 1 to `longest` of them.
  bool Word(const std::string& field, absl::string_view text, absl::string_view allowed,
            size_t longest);
  // Below a root: no "..", no empty name.
  bool Path(const std::string& field, absl::string_view text);
  // nullopt and a fault if it is no length; `positive`: zero is a fault.
  std::optional<Length> LengthOf(const std::string& field, absl::string_view text, bool positive);
  void Preprocess(const std::string& field, absl::string_view text, bool random_allowed);

  std::vector<Fault> faults;

 private:
  void Add(const std::string& field, std::string text, bool reserved);
};

// What holds for every message: known enum values, finite numbers, text without control characters
// and not too long, at most `kSpecListMax` elements.
void CheckGenerally(const google::protobuf::Message& message, const std::string& path,
                    Checker* checker);

void CheckHead(const v1::JobSpec& spec,
               Checker* checker);  // name, labels, priority, resources, batch, grace
void CheckStart(const v1::JobSpec& spec, Checker* checker);  // kind, from, and what they ask of others
void CheckModel(const v1::Model& model, Checker* checker);
void CheckSource(const v1::DataSource& source, const std::string& path, Checker* checker);
// Grammar, chance, and the size of what comes out: the model's. `source`: the images it is for.
void CheckPreprocess(const std::string& field, const std::string& text, bool random_allowed,
                     const v1::DataSource& source, const v1::Model& model, Checker* checker);
// The same for an evaluation. What it took over from a training text that is refused is not refused
// again.
void CheckEvalPreprocess(const v1::JobSpec& spec, const v1::Eval& eval, const std::string& field,
                         Checker* checker);
void CheckOptimizer(const v1::Optimizer& optimizer, Checker* checker);
void CheckSchedule(const v1::Schedule& schedule, int64_t batch_global, Checker* checker);
void CheckEvals(const v1::JobSpec& spec, Checker* checker);
void CheckSaving(const v1::JobSpec& spec, Checker* checker);  // checkpoint, on_divergence

// Sizes of the named variants: "S" of "S/16". Must equal the list of worker/model (a test compares
// them).
const std::vector<std::string>& VariantSizes();

}  // namespace vitscale

#endif  // PROTO_SPEC_RULES_H_
