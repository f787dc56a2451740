#include "worker/config/changed_fields.h"

#include "proto/spec/difference.h"
#include "proto/spec/job_spec.h"

namespace vitscale {
namespace {

// With the defaults of today: a field that is younger than the manifest has not changed.
std::string Completed(const std::string& manifest_spec) {
  const auto spec = ParseJobSpec(manifest_spec, SpecFormat::kYaml);
  if (!spec.ok()) return manifest_spec;
  const auto canonical = Canonicalize(*spec);
  return canonical.ok() ? ToYaml(*canonical) : manifest_spec;
}

}  // namespace

std::vector<std::string> ChangedFields(const std::string& manifest_spec, const JobConfig& job) {
  auto differences = SpecDifferences(Completed(manifest_spec), job.canonical_text);
  if (!differences.ok()) return {};
  return *std::move(differences);
}

}  // namespace vitscale
