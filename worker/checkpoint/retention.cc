#include "worker/checkpoint/retention.h"

#include <algorithm>
#include <utility>

namespace vitscale {
namespace {

bool IsGreater(const CheckpointName& name, const RetentionRequest& request) {
  return std::pair(name.attempt, name.generation) > std::pair(request.attempt, request.generation);
}

bool IsNamed(const std::string& id, const RetentionRequest& request) {
  return request.pinned.count(id) > 0 || request.in_use.count(id) > 0;
}

bool IsKeptForEver(const CheckpointManifest& manifest, const RetentionRequest& request) {
  return request.keep_every_steps > 0 && manifest.name.step > 0 &&
         manifest.name.step % request.keep_every_steps == 0;
}

// An abandoned checkpoint goes once the line that replaced it has one of its own.
bool IsReplaced(const CheckpointEntry& entry, const CheckpointListing& listing) {
  return std::any_of(listing.valid.begin(), listing.valid.end(), [&](const CheckpointEntry& other) {
    return !other.abandoned && other.manifest.lineage > entry.manifest.lineage;
  });
}

}  // namespace

bool IsAbandoned(const CheckpointManifest& manifest,
                 const std::vector<LineageTombstone>& tombstones) {
  return std::any_of(tombstones.begin(), tombstones.end(), [&](const LineageTombstone& tombstone) {
    return tombstone.lineage > manifest.lineage && manifest.name.step > tombstone.step;
  });
}

std::vector<CheckpointName> ChooseRemovals(const CheckpointListing& listing,
                                           const RetentionRequest& request,
                                           const std::string& job_id) {
  std::vector<CheckpointName> removals;
  int usable = 0;
  for (const CheckpointEntry& entry : listing.valid) {
    if (!entry.abandoned) ++usable;
    const bool among_last = !entry.abandoned && usable <= std::max(1, request.keep_last);
    const bool kept =
        among_last || IsGreater(entry.manifest.name, request) || IsNamed(entry.id, request) ||
        (entry.abandoned ? !IsReplaced(entry, listing) : IsKeptForEver(entry.manifest, request));
    if (!kept) removals.push_back(entry.manifest.name);
  }
  std::reverse(removals.begin(), removals.end());
  for (const IncompleteEntry& entry : listing.incomplete) {
    const bool kept = entry.has_manifest || IsGreater(entry.name, request) ||
                      IsNamed(CheckpointId(job_id, entry.name), request) ||
                      request.now - entry.modified <= request.orphan_window;
    if (!kept) removals.push_back(entry.name);
  }
  return removals;
}

}  // namespace vitscale
