#include "server/core/goodput.h"

#include <algorithm>

#include "server/core/convert.h"

namespace vitscale {

v1::Goodput GoodputAt(const server::JobRow& row, absl::Time now) {
  v1::Goodput goodput = row.job().goodput();
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - FromProto(row.state_since())));
  switch (row.job().state()) {
    case v1::JOB_STATE_QUEUED:
    case v1::JOB_STATE_STARTING:
      goodput.set_queued(goodput.queued() + seconds);
      break;
    case v1::JOB_STATE_RUNNING:
      goodput.set_productive(goodput.productive() + std::max(0.0, seconds - row.booked_seconds()));
      break;
    case v1::JOB_STATE_RECOVERING:
      goodput.set_recovering(goodput.recovering() + seconds);
      break;
    case v1::JOB_STATE_STOPPING:
      goodput.set_checkpoint_stall(goodput.checkpoint_stall() + seconds);
      break;
    case v1::JOB_STATE_PAUSED:
      goodput.set_paused(goodput.paused() + seconds);
      break;
    default:
      break;
  }
  return goodput;
}

}  // namespace vitscale
