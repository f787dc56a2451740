// Jobs, workers, checkpoints, steps and events as tables and lines. No I/O.

#ifndef CLIENT_JOB_TEXT_H_
#define CLIENT_JOB_TEXT_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/text.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale {

Table JobTable(const std::vector<v1::Job>& jobs, absl::Time now, bool wide, bool color);
Table WorkerTable(const std::vector<v1::Worker>& workers, absl::Time now, bool wide, bool color);
Table CheckpointTable(const std::vector<v1::CheckpointInfo>& checkpoints, absl::Time now,
                      bool wide);
Table EventTable(const std::vector<v1::Event>& events, bool wide);
// `csv`: full precision and every scalar.
Table StepTable(const std::vector<v1::StepRecord>& steps, bool wide, bool csv);

// `vitscale get`: everything about one job.
std::string JobDetails(const v1::Job& job, const std::vector<v1::Event>& last_events,
                       absl::Time now, bool color);
// `vitscale why`: state, reason and what led to it.
std::string JobReason(const v1::Job& job, const std::vector<v1::Event>& last_events, absl::Time now,
                      bool color);

std::string EventLine(const v1::Event& event);
std::string EvalLine(const v1::EvalRecord& eval);  // "val at step 2340: top1 88.1 %, loss 0.31"
// A row for every value. `csv`: numbers in full.
Table EvalTable(const std::vector<v1::EvalRecord>& evals, bool csv);
// "top1 88.1 %, loss 0.31"; of a sweep of few-shot strengths the best of each number of shots.
std::string EvalValues(const v1::EvalRecord& eval);
// "bad_configuration: unknown key 'modle'": of a job that has ended without success; else "".
std::string WhyItEnded(const v1::Job& job);
std::string LogText(const v1::LogLine& line);

}  // namespace vitscale

#endif  // CLIENT_JOB_TEXT_H_
