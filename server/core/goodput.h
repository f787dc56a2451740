// Where a job's time went, by state. One rule for what is stored and what is shown.

#ifndef SERVER_CORE_GOODPUT_H_
#define SERVER_CORE_GOODPUT_H_

#include "absl/time/time.h"
#include "server/core/rows.pb.h"

namespace vitscale {

// What is booked in the row plus the time in the current state until `now` (wall clock; a clock that
// was set back adds nothing). RUNNING is productive but for what the row has booked already.
v1::Goodput GoodputAt(const server::JobRow& row, absl::Time now);

}  // namespace vitscale

#endif  // SERVER_CORE_GOODPUT_H_
