// Defaults of the job file, in one place. Internal to proto/spec.

#ifndef PROTO_SPEC_DEFAULTS_H_
#define PROTO_SPEC_DEFAULTS_H_

#include "proto/spec/bind.h"
#include "vitscale/v1/job_spec.pb.h"

namespace vitscale {

// Fills what was not given; never fails. `places`: where the user gave what, so that an explicit 0
// is not taken for "not given"; may be null.
void FillDefaults(const Places* places, v1::JobSpec* spec);

// Lengths, durations and preprocessing of a valid spec in their one form.
void NormaliseText(v1::JobSpec* spec);

}  // namespace vitscale

#endif  // PROTO_SPEC_DEFAULTS_H_
