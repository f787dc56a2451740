#include "client/job_text.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/measures.h"
#include "proto/spec/message_text.h"
#include "proto/spec/units.h"

namespace vitscale {
namespace {

std::string Progress(const v1::Job& job) {
  if (job.spec().kind() == v1::JOB_KIND_EVALUATE) return "evaluation";
  if (job.total_steps() == 0) return absl::StrCat(job.step());
  return absl::StrCat(job.step(), "/", job.total_steps());
}

std::string LossOf(const v1::Job& job) {
  return job.has_last_step() ? Significant(job.last_step().loss(), 4) : "-";
}

std::string AgeOf(const google::protobuf::Timestamp& time, absl::Time now) {
  return time.seconds() == 0 ? "-" : Age(now - TimeOf(time));
}

// Time since the start, until the end.
std::string RunTime(const v1::Job& job, absl::Time now) {
  if (!job.has_start_time()) return "-";
  return Age((job.has_end_time() ? TimeOf(job.end_time()) : now) - TimeOf(job.start_time()));
}

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }

// "71.2 GiB of 80.0 GiB"; a CPU says nothing of its own.
std::string FreeOf(const v1::Worker& worker) {
  if (!worker.has_device_use()) return "-";
  return absl::StrCat(FormatSize(worker.device_use().free_bytes()), " of ",
                      FormatSize(worker.device().memory_bytes()));
}

std::string WhyOf(const v1::Worker& worker) {
  const std::string& dirty = worker.device_use().dirty();
  if (worker.state() != v1::WORKER_STATE_DIRTY || dirty.empty()) return OrDash(worker.reason());
  return absl::StrCat(worker.reason(), ": ", dirty);
}

void Line(std::string* out, const std::string& name, const std::string& value) {
  if (!value.empty()) absl::StrAppend(out, absl::StrFormat("%-13s", name), value, "\n");
}

std::string WorkersWanted(const v1::Job& job) {
  const v1::WorkerRange& range = job.spec().resources().workers();
  const int held = job.workers_size();
  return absl::StrCat(held, "/", range.max());
}

std::string GoodputText(const v1::Goodput& g) {
  const std::pair<const char*, double> states[] = {
      {"productive", g.productive()},   {"recomputed", g.recomputed()},
      {"recovering", g.recovering()},   {"checkpoint stall", g.checkpoint_stall()},
      {"input stall", g.input_stall()}, {"evaluation", g.evaluation()},
      {"queued", g.queued()},           {"paused", g.paused()}};
  std::vector<std::string> parts;
  for (const auto& [name, seconds] : states) {
    if (seconds > 0) parts.push_back(absl::StrCat(name, " ", Significant(seconds, 3), " s"));
  }
  return absl::StrJoin(parts, ", ");
}

std::string NumericsText(const v1::NumericsRecord& n) {
  if (n.backend().empty()) return "";
  const auto* precision = v1::Precision_descriptor()->FindValueByNumber(n.precision());
  return absl::StrCat(n.backend(), " ", n.instruction_set(), ", ",
                      precision ? EnumWord(*precision) : "?", ", ", n.world_size(),
                      n.world_size() == 1 ? " rank, micro-batch " : " ranks, micro-batch ",
                      n.batch_micro(), ", ", n.collective());
}

void AppendEvents(const std::vector<v1::Event>& events, std::string* out) {
  for (const v1::Event& event : events) {
    absl::StrAppend(out, "  ", EventLine(event), "\n");
  }
}

}  // namespace

Table JobTable(const std::vector<v1::Job>& jobs, absl::Time now, bool wide, bool color) {
  std::vector<std::string> head = {"ID", "NAME", "STATE", "STEP", "LAST_LOSS", "WORKERS", "AGE"};
  if (wide) {
    for (const char* more :
         {"PRIORITY", "OWNER", "INTENT", "ATTEMPT", "RECOVERIES", "RUNTIME", "REASON"}) {
      head.push_back(more);
    }
  }
  Table table(head);
  for (const v1::Job& job : jobs) {
    std::vector<std::string> row = {job.id(),
                                    job.spec().name(),
                                    Coloured(StateWord(job.state()), color),
                                    Progress(job),
                                    LossOf(job),
                                    WorkersWanted(job),
                                    AgeOf(job.submit_time(), now)};
    if (wide) {
      for (std::string& cell : std::vector<std::string>{
               absl::StrCat(job.spec().priority()), OrDash(job.owner().name()),
               IntentWord(job.intent()), absl::StrCat(job.attempt()),
               absl::StrCat(job.recoveries()), RunTime(job, now), OrDash(job.reason())}) {
        row.push_back(std::move(cell));
      }
    }
    table.Row(std::move(row));
  }
  return table;
}

// Cards have two columns of their own where there are any.
Table WorkerTable(const std::vector<v1::Worker>& workers, absl::Time now, bool wide, bool color) {
  const bool cards = std::any_of(workers.begin(), workers.end(), [](const v1::Worker& worker) {
    return worker.device().kind() == v1::DEVICE_CUDA;
  });
  std::vector<std::string> head = {"ID", "STATE", "DEVICE"};
  if (cards) head.insert(head.end(), {"CARD", "FREE"});
  head.insert(head.end(), {"JOB", "RANK", "HEARTBEAT", "SINCE"});
  if (wide) {
    for (const char* more : {"HOST", "MODEL", "INSTRUCTIONS", "THREADS", "MEMORY", "DRIVER",
                             "VERSION", "METRICS", "REASON"}) {
      head.push_back(more);
    }
  }
  Table table(head);
  for (const v1::Worker& w : workers) {
    const double age =
        static_cast<double>(w.heartbeat_age().seconds()) + w.heartbeat_age().nanos() * 1e-9;
    std::vector<std::string> row = {w.id(), Coloured(StateWord(w.state()), color),
                                    w.device().name()};
    if (cards) {
      const bool card = w.device().kind() == v1::DEVICE_CUDA;
      row.insert(row.end(), {card ? w.device().model() : "-", FreeOf(w)});
    }
    row.insert(row.end(), {OrDash(w.job_id()), w.job_id().empty() ? "-" : absl::StrCat(w.rank()),
                           absl::StrFormat("%.1fs", age), AgeOf(w.state_time(), now)});
    if (wide) {
      for (std::string& cell : std::vector<std::string>{
               w.host(), w.device().model(), w.device().instruction_set(),
               absl::StrCat(w.device().threads()), FormatSize(w.device().memory_bytes()),
               OrDash(w.device().driver()), w.version(), OrDash(w.metrics_address()), WhyOf(w)}) {
        row.push_back(std::move(cell));
      }
    }
    table.Row(std::move(row));
  }
  return table;
}

Table CheckpointTable(const std::vector<v1::CheckpointInfo>& checkpoints, absl::Time now,
                      bool wide) {
  std::vector<std::string> head = {"ID", "STEP", "IMAGES", "SIZE", "AGE", "PINNED", "FINAL"};
  if (wide) {
    for (const char* more : {"LINEAGE", "DIGEST", "PARENT", "DELETED", "PATH"})
      head.push_back(more);
  }
  Table table(head);
  for (const v1::CheckpointInfo& c : checkpoints) {
    std::vector<std::string> row = {c.id(),
                                    absl::StrCat(c.step()),
                                    Thousands(c.images()),
                                    FormatSize(c.bytes()),
                                    AgeOf(c.time(), now),
                                    c.pinned() ? "yes" : "no",
                                    c.final() ? "yes" : "no"};
    if (wide) {
      for (std::string& cell :
           std::vector<std::string>{absl::StrCat(c.lineage()), c.digest(), OrDash(c.parent()),
                                    c.deleted() ? "yes" : "no", c.path()}) {
        row.push_back(std::move(cell));
      }
    }
    table.Row(std::move(row));
  }
  return table;
}

Table EventTable(const std::vector<v1::Event>& events, bool wide) {
  std::vector<std::string> head = {"SEQUENCE", "TIME", "JOB", "KIND", "REASON", "MESSAGE"};
  if (wide) {
    for (const char* more : {"WORKER", "ACTOR", "ATTEMPT", "GENERATION", "STEP"})
      head.push_back(more);
  }
  Table table(head);
  for (const v1::Event& e : events) {
    std::vector<std::string> row = {absl::StrCat(e.sequence()), ClockTime(e.time()),
                                    OrDash(e.job_id()),         e.kind(),
                                    OrDash(e.reason()),         e.message()};
    if (wide) {
      for (std::string& cell : std::vector<std::string>{
               OrDash(e.worker_id()), OrDash(e.actor().name()), absl::StrCat(e.attempt()),
               absl::StrCat(e.generation()), absl::StrCat(e.step())}) {
        row.push_back(std::move(cell));
      }
    }
    table.Row(std::move(row));
  }
  return table;
}

Table StepTable(const std::vector<v1::StepRecord>& steps, bool wide, bool csv) {
  std::vector<std::string> head = {"STEP",          "IMAGES",        "LOSS",   "ACCURACY",
                                   "LEARNING_RATE", "GRADIENT_NORM", "SECONDS"};
  const bool all = wide || csv;
  if (all) {
    for (const char* more :
         {"PARAMETER_NORM", "UPDATE_NORM", "FLOPS", "GENERATION", "LINEAGE", "SKIPPED", "TIME"}) {
      head.push_back(more);
    }
  }
  if (csv) {
    for (std::string& name : head)
      std::transform(name.begin(), name.end(), name.begin(), ::tolower);
  }
  const auto number = [csv](double value) {
    return csv ? ShortestDouble(value) : Significant(value, 4);
  };
  Table table(head);
  for (const v1::StepRecord& s : steps) {
    std::vector<std::string> row = {absl::StrCat(s.step()),    absl::StrCat(s.images()),
                                    number(s.loss()),          number(s.train_accuracy()),
                                    number(s.learning_rate()), number(s.gradient_norm()),
                                    number(s.step_seconds())};
    if (all) {
      const std::string time =
          csv ? absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", TimeOf(s.time()), absl::UTCTimeZone())
              : ClockTime(s.time());
      for (std::string& cell : std::vector<std::string>{
               number(s.parameter_norm()), number(s.update_norm()), number(s.flops()),
               absl::StrCat(s.generation()), absl::StrCat(s.lineage()),
               s.skipped() ? "true" : "false", time}) {
        row.push_back(std::move(cell));
      }
    }
    table.Row(std::move(row));
  }
  return table;
}

Table EvalTable(const std::vector<v1::EvalRecord>& evals, bool csv) {
  Table table(csv ? std::vector<std::string>{"evaluation", "step", "images", "eval_images",
                                             "measure", "value"}
                  : std::vector<std::string>{"EVALUATION", "STEP", "IMAGES", "MEASURED", "MEASURE",
                                             "VALUE"});
  for (const v1::EvalRecord& eval : evals) {
    for (const Measure& measure : MeasuresOf(eval)) {
      table.Row({eval.name(), absl::StrCat(eval.step()),
                 csv ? absl::StrCat(eval.images()) : Thousands(eval.images()),
                 csv ? absl::StrCat(eval.eval_images()) : Thousands(eval.eval_images()),
                 measure.name, csv ? ShortestDouble(measure.value) : measure.Text()});
    }
  }
  return table;
}

std::string EvalValues(const v1::EvalRecord& eval) {
  std::vector<std::string> parts;
  for (const Measure& measure : MeasuresOf(eval)) {
    if (!measure.swept) parts.push_back(absl::StrCat(measure.name, " ", measure.Text()));
  }
  return absl::StrJoin(parts, ", ");
}

std::string EvalLine(const v1::EvalRecord& eval) {
  return absl::StrCat(eval.name(), " at step ", eval.step(), ": ", EvalValues(eval), " (",
                      Thousands(eval.eval_images()), " images)");
}

std::string EventLine(const v1::Event& event) {
  std::string line = absl::StrCat(ClockTime(event.time()), "  ", event.kind());
  if (event.kind() == "state_changed") {
    absl::StrAppend(&line, " ", StateWord(event.from()), " -> ", StateWord(event.to()));
  }
  if (!event.message().empty()) {
    absl::StrAppend(&line, ": ", event.message());
  } else if (!event.reason().empty()) {
    absl::StrAppend(&line, ": ", event.reason());
  }
  return line;
}

std::string LogText(const v1::LogLine& line) {
  const std::string from = line.rank() >= 0           ? absl::StrCat("rank ", line.rank())
                           : line.worker_id().empty() ? "coordinator"
                                                      : line.worker_id();
  return absl::StrCat(ClockTime(line.time()), " [", from, "] ", line.text());
}

std::string JobDetails(const v1::Job& job, const std::vector<v1::Event>& last_events,
                       absl::Time now, bool color) {
  std::string out;
  Line(&out, "id", Bold(job.id(), color));
  Line(&out, "name", job.spec().name());
  Line(&out, "owner", job.owner().name());
  Line(&out, "state",
       absl::StrCat(Coloured(StateWord(job.state()), color), job.message().empty() ? "" : "  ",
                    job.message()));
  Line(&out, "from", job.spec().from());
  Line(&out, "intent", IntentWord(job.intent()));
  Line(&out, "step", Progress(job));
  if (job.has_last_step()) {
    const v1::StepRecord& s = job.last_step();
    Line(&out, "last step",
         absl::StrCat("loss ", Significant(s.loss(), 5), ", learning rate ",
                      Significant(s.learning_rate(), 3), ", gradient norm ",
                      Significant(s.gradient_norm(), 3), ", ", Significant(s.step_seconds(), 3),
                      " s a step"));
  }
  for (const v1::EvalRecord& eval : job.last_evals()) Line(&out, "evaluation", EvalLine(eval));
  Line(&out, "workers", absl::StrJoin(job.workers(), ", "));
  Line(&out, "checkpoint", job.checkpoint());
  Line(&out, "numerics", NumericsText(job.numerics()));
  Line(&out, "attempt",
       absl::StrCat(job.attempt(), ", generation ", job.generation(), ", recoveries ",
                    job.recoveries(), ", preemptions ", job.preemptions()));
  Line(&out, "submitted",
       absl::StrCat(ClockTime(job.submit_time()), " (", AgeOf(job.submit_time(), now), " ago)"));
  Line(&out, "started", ClockTime(job.start_time()));
  Line(&out, "ended", job.has_end_time() ? ClockTime(job.end_time()) : "");
  Line(&out, "run time", RunTime(job, now));
  Line(&out, "goodput", GoodputText(job.goodput()));
  if (!last_events.empty()) {
    absl::StrAppend(&out, "last events\n");
    AppendEvents(last_events, &out);
  }
  return out;
}

std::string WhyItEnded(const v1::Job& job) {
  if (!IsTerminal(job.state()) || job.state() == v1::JOB_STATE_SUCCEEDED) return "";
  const bool both = !job.reason().empty() && !job.message().empty();
  return absl::StrCat(job.reason(), both ? ": " : "", job.message());
}

std::string JobReason(const v1::Job& job, const std::vector<v1::Event>& last_events, absl::Time now,
                      bool color) {
  std::string out = absl::StrCat(Bold(job.id(), color), " (", job.spec().name(), ") is ",
                                 Coloured(StateWord(job.state()), color));
  if (!job.reason().empty()) absl::StrAppend(&out, " because of ", job.reason());
  absl::StrAppend(&out, job.message().empty() ? "" : ": ", job.message(), "\n");
  if (!IsTerminal(job.state()) && job.intent() != v1::INTENT_RUN &&
      job.intent() != v1::INTENT_UNSPECIFIED) {
    absl::StrAppend(&out, "intent: ", IntentWord(job.intent()), "\n");
  }
  absl::StrAppend(&out, "submitted ", AgeOf(job.submit_time(), now), " ago, attempt ",
                  job.attempt(), ", step ", Progress(job), "\n");
  AppendEvents(last_events, &out);
  return out;
}

}  // namespace vitscale
